// npm `@microsoft/fetch-event-source`, which expects a browser's globals.
import { addresses, end, show, token } from './output.mjs';

Object.assign(globalThis, { window: globalThis, document: new EventTarget() });
const { fetchEventSource } = await import('@microsoft/fetch-event-source');

class Refused extends Error {}

addresses.forEach(async (address, stream) => {
  try {
    await fetchEventSource(address, {
      headers: { authorization: `Bearer ${token}` },
      // Otherwise a hidden tab closes its stream.
      openWhenHidden: true,
      async onopen(answer) {
        if ([400, 401, 403].includes(answer.status)) throw new Refused(answer.status);
        if (!answer.ok) throw new Error(answer.status);
      },
      onmessage({ event, id, data }) {
        // A frame with only `retry:` comes as a message without data, too.
        if (data !== '') show(stream, event || 'message', id, data);
      },
      // Without this an ended stream is the end: nothing comes back.
      onclose() {
        throw new Error('the stream ended');
      },
      // Without this nothing ends it, not even 401.
      onerror(error) {
        if (error instanceof Refused) throw error;
      },
    });
  } catch (error) {
    end(stream, error.message);
  }
});
