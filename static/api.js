// Calls to this site's API, and the server's idea of what time it is.

const TIMEOUT = 15_000;

/** The session is over: nothing but signing in helps. */
export class SignedOut extends Error {}

/** The server answered, and said no. */
export class Refused extends Error {
  constructor(status, detail, field) {
    super(detail);
    this.status = status;
    this.field = field;
  }
}

let offset = null;

/** The server's time in milliseconds, or null until it has answered once: this device's clock may be wrong. */
export function serverNow() {
  return offset === null ? null : Date.now() + offset;
}

/** Calls the API; the parsed answer, or null when there is none. `key` is an Idempotency-Key. */
export async function call(path, { method = 'GET', body, key } = {}) {
  const response = await fetch(`/api/v1${path}`, {
    method,
    body: body && JSON.stringify(body),
    headers: { ...(body && { 'content-type': 'application/json' }), ...(key && { 'idempotency-key': key }) },
    signal: AbortSignal.timeout(TIMEOUT),
  });
  const date = Date.parse(response.headers.get('date') ?? '');
  // The header has whole seconds: half of one is the best guess for the rest.
  if (!Number.isNaN(date)) offset = date + 500 - Date.now();
  if (response.status === 401) throw new SignedOut();
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Refused(response.status, problem.detail ?? 'the server could not do this', problem.field);
  }
  return response.status === 204 ? null : response.json();
}
