// What all programs here share: a JSON line for each event, and one when a stream is over for good.

/** The streams to open. */
export const addresses = process.argv.slice(2).filter((argument) => argument.startsWith('http'));

export const token = process.env.CARILLON_TOKEN;

/** Names that the tests publish, and those of the server's own events: an `EventSource` listens only to names that it is given. */
export const names = process.env.CARILLON_NAMES.split(',');

export function show(stream, event, id, data) {
  console.log(JSON.stringify({ stream, event, id, data }));
}

export function end(stream, reason) {
  console.log(JSON.stringify({ stream, end: String(reason) }));
}
