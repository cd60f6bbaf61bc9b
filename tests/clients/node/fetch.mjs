// Plain `fetch`, which most clients here read by: says how a stream ended. What ends well is over for some of them for good.
import { createParser } from 'eventsource-parser';
import { addresses, end, show, token } from './output.mjs';

async function listen(address, stream) {
  const answer = await fetch(address, { headers: { authorization: `Bearer ${token}` } });
  const parser = createParser({
    onEvent({ event, id, data }) {
      show(stream, event ?? 'message', id ?? '', data);
    },
  });
  const text = new TextDecoder();
  try {
    for await (const bytes of answer.body) parser.feed(text.decode(bytes, { stream: true }));
    end(stream, 'well');
  } catch {
    end(stream, 'with an error');
  }
}

addresses.forEach(listen);
