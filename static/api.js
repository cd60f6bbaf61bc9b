// Calls to this site's API, and the server's clock.

import { account } from './page.js';
import { t } from './texts.js';

const TIMEOUT = 15_000;

/** The session is over: the user must sign in again. */
export class SignedOut extends Error {}

/** The server answered with an error. */
export class Refused extends Error {
  constructor(status, detail, field) {
    super(detail);
    this.status = status;
    /** The field of the request that is at fault, if it is one. */
    this.field = field;
  }
}

let offset = null;

/** The server's time in milliseconds, or null until it has answered once: this device's clock may be wrong. */
export function serverNow() {
  return offset === null ? null : Date.now() + offset;
}

/**
 * Calls the API as the account of this page: if another one has signed in meanwhile, nothing is done. Returns the parsed
 * answer, or null when there is none. `json` is a body as text, `key` an Idempotency-Key; `asText`: returns the answer
 * as it was written.
 */
export async function call(path, { method = 'GET', body, json = body && JSON.stringify(body), key, asText = false } = {}) {
  const address = new URL(`/api/v1${path}`, location.href);
  address.searchParams.set('account', account);
  const response = await fetch(address, {
    method,
    body: json,
    headers: { ...(json && { 'content-type': 'application/json' }), ...(key && { 'idempotency-key': key }) },
    signal: AbortSignal.timeout(TIMEOUT),
  });
  const date = Date.parse(response.headers.get('date') ?? '');
  // The header has whole seconds: half of one is the best guess for the rest.
  if (!Number.isNaN(date)) offset = date + 500 - Date.now();
  if (response.status === 401) throw new SignedOut();
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Refused(response.status, problem.detail ?? t('server.failed'), problem.field);
  }
  if (response.status === 204) return null;
  return asText ? response.text() : response.json();
}
