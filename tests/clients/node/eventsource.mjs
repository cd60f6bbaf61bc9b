// npm `eventsource`: node eventsource.mjs eventsource4|eventsource5 ADDRESS…
import { addresses, end, names, show, token } from './output.mjs';

const { EventSource } = await import(process.argv[2]);

// Version 5 does not keep the process alive while it waits to reconnect: without this, or something else to do, it ends.
setInterval(() => {}, 1 << 30);

addresses.forEach((address, stream) => {
  const source = new EventSource(address, {
    fetch: (input, init) =>
      fetch(input, { ...init, headers: { ...init.headers, authorization: `Bearer ${token}` } }),
  });
  for (const name of ['message', ...names]) {
    source.addEventListener(name, ({ type, lastEventId, data }) => show(stream, type, lastEventId, data));
  }
  source.addEventListener('error', (error) => {
    if (source.readyState === source.CLOSED) end(stream, error.code);
  });
});
