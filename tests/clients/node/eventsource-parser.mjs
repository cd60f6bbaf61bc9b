// npm `eventsource-parser`, with the loop that reconnects.
import { setTimeout as sleep } from 'node:timers/promises';
import { createParser } from 'eventsource-parser';
import { addresses, end, show, token } from './output.mjs';

async function listen(address, stream) {
  let cursor = '';
  let pause = 1000;
  for (;;) {
    try {
      const answer = await fetch(address, {
        headers: { authorization: `Bearer ${token}`, ...(cursor && { 'last-event-id': cursor }) },
      });
      if ([400, 401, 403].includes(answer.status)) return end(stream, answer.status);
      const parser = createParser({
        onEvent({ event, id, data }) {
          cursor = id ?? cursor;
          show(stream, event ?? 'message', cursor, data);
        },
        onRetry(milliseconds) {
          pause = milliseconds;
        },
      });
      const text = new TextDecoder();
      if (answer.ok) for await (const bytes of answer.body) parser.feed(text.decode(bytes, { stream: true }));
    } catch (error) {
      console.error(error.cause?.message ?? error.message);
    }
    await sleep(pause * (0.5 + Math.random()));
  }
}

addresses.forEach(listen);
