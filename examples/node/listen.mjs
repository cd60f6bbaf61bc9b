#!/usr/bin/env node
// Prints each event as a line of JSON, once, whatever happens to the connection or to the node. Node 18 or newer, no
// packages. (In a browser, use /static/carillon.js: docs/browser.md.)
//
//     CARILLON_TOKEN=… node examples/node/listen.mjs [TOPIC …]

import { setTimeout as sleep } from 'node:timers/promises';

// Any node will do; several, separated by commas, are tried in turn.
const servers = (process.env.CARILLON_SERVER ?? 'http://127.0.0.1:8080').split(',');
const token = process.env.CARILLON_TOKEN;
const listenTo = process.argv.slice(2).map((topic) => ['topic', topic]);
/** A node says something at least every 15 seconds: three times that is a connection that died unnoticed. */
const SILENCE = 45_000;
/** How many ids to remember. Repeats are of the last few, not of last week. */
const IDS_KEPT = 10_000;

const seen = new Set();
let cursor = '';
let pause = 1_000;
let server;

function get(path, parameters, { headers, signal } = {}) {
  const address = `${server}/api/v1/${path}?${new URLSearchParams(parameters)}`;
  return fetch(address, { headers: { authorization: `Bearer ${token}`, ...headers }, signal });
}

/** Lines of a stream, each only when its end has come: what is cut off is no line. */
async function* lines(stream) {
  const text = new TextDecoder();
  let rest = '';
  for await (const piece of stream) {
    const whole = (rest + text.decode(piece, { stream: true })).split('\n');
    rest = whole.pop();
    yield* whole;
  }
}

/** Reads frames (https://html.spec.whatwg.org/#parsing-an-event-stream) until the stream ends. */
async function follow() {
  const dead = new AbortController();
  const silence = setTimeout(() => dead.abort(), SILENCE);
  try {
    const answer = await get('stream', listenTo, { headers: { 'last-event-id': cursor }, signal: dead.signal });
    if ([400, 401, 403].includes(answer.status)) {
      // The request is wrong, or the token is over: asking again would not help.
      console.error(`refused: ${await answer.text()}`);
      process.exit(1);
    }
    if (!answer.ok) return;
    let frame = { event: '', data: [], id: cursor };
    for await (const line of lines(answer.body)) {
      silence.refresh();
      const [, name, value] = /^([^:]*):? ?(.*)$/.exec(line);
      if (name === 'data') frame.data.push(value);
      else if (name === 'retry') pause = Number(value);
      else if (name === 'event' || name === 'id') frame[name] = value;
      if (line !== '') continue;
      if (frame.data.length > 0) await handle(frame.event, JSON.parse(frame.data.join('\n')));
      if (!cursor) console.error(`listening to ${server}`);
      // Only now: the id of a frame that was cut off or failed would skip that frame.
      cursor = frame.id;
      frame = { event: '', data: [], id: cursor };
    }
  } finally {
    clearTimeout(silence);
  }
}

async function handle(event, data) {
  if (event === '') {
    show(data);
  } else if (event === 'carillon.reset') {
    // What was missed cannot be told any more, but the inbox has what is still of interest.
    console.error(`history was lost (${data.reason}): reading the inbox`);
    await readInbox([]);
    if (listenTo.length > 0) await readInbox(listenTo);
  }
  // carillon.read, carillon.retract and carillon.expire are for those who show a list.
}

/** Shows what the newest page has that was not seen: of some topics, or else of what is for this user and everyone. */
async function readInbox(topics) {
  const answer = await get('inbox', [...topics, ['limit', 200]], { signal: AbortSignal.timeout(SILENCE) });
  if (!answer.ok) throw new Error(`the inbox: ${answer.status}`);
  (await answer.json()).entries.reverse().forEach(show);
}

function show(event) {
  if (seen.has(event.id)) return;
  seen.add(event.id);
  if (seen.size > IDS_KEPT) seen.delete(seen.values().next().value);
  console.log(JSON.stringify(event));
}

for (let attempt = 0; ; attempt += 1) {
  server = servers[attempt % servers.length];
  // The connection broke, was silent for too long, or could not be made.
  await follow().catch((error) => console.error(`${server}: ${error.cause?.message ?? error.message}`));
  // At random, so that not everybody comes back at once when a node goes.
  await sleep(pause * (0.5 + Math.random()));
}
