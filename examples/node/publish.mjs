#!/usr/bin/env node
// Publishes each line of standard input as an event, for everyone or for a topic. Node 18 or newer, no packages.
//
//     printf 'first\nsecond\n' | CARILLON_TOKEN=… node examples/node/publish.mjs [TOPIC]

import { randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

const server = process.env.CARILLON_SERVER ?? 'http://127.0.0.1:8080';
const token = process.env.CARILLON_TOKEN;
/** How long to go on trying. Keys are known as long as the event is kept, so this may be days. */
const PATIENCE = 60_000;
/** What may pass by itself. Anything else that is no success means that the request is wrong. */
const PASSING = [408, 429, 502, 503, 504];

/** Publishes an event; its id and position. Tries again until it is known to be in the log, once. */
async function publish(event) {
  const request = {
    method: 'POST',
    body: JSON.stringify(event),
    // If no answer comes, nobody knows whether the event is published. With the same key it is safe to ask again:
    // the second time gives the first event.
    headers: { authorization: `Bearer ${token}`, 'idempotency-key': randomUUID() },
  };
  const giveUp = Date.now() + PATIENCE;
  for (let pause = 200; ; pause = Math.min(pause * 2, 10_000)) {
    const { receipt, problem, mayPass, asked } = await attempt(request);
    if (receipt) return receipt;
    if (!mayPass || Date.now() > giveUp) throw new Error(`not acknowledged: ${problem}`);
    // At random, so that many publishers do not come back all at once.
    await sleep(Math.max(asked, pause * (0.5 + Math.random() / 2)));
  }
}

/** One attempt: the receipt, or the problem, whether it may pass, and how long the server asks to wait. */
async function attempt(request) {
  try {
    const answer = await fetch(`${server}/api/v1/events`, { ...request, signal: AbortSignal.timeout(15_000) });
    if (answer.ok) return { receipt: await answer.json() };
    const asked = 1_000 * Number(answer.headers.get('retry-after') ?? 0);
    return { problem: await answer.text(), mayPass: PASSING.includes(answer.status), asked };
  } catch (error) {
    // Nothing, or half an answer.
    return { problem: error.message, mayPass: true, asked: 0 };
  }
}

const topic = process.argv[2];
for await (const line of createInterface({ input: process.stdin })) {
  const { position, id } = await publish({ type: 'note', to: topic ? { topic } : 'everyone', data: line });
  console.log(position, id);
}
