// The stream of the nodes' status: an EventSource, and another whenever it ends, breaks or falls silent.

const FIRST_PAUSE = 1_000;
const LONGEST_PAUSE = 15_000;
/** A status comes every two seconds. */
const SILENCE = 7_000;
const PROBE_TIMEOUT = 8_000;
/** A hidden page closes its connection after so many milliseconds: a browser has few to one host. */
const HIDDEN_FOR = 60_000;

/** `on`: `nodes(data)`, `state(state, since)` and `signedOut()`. */
export function watch(url, on) {
  let events = null;
  let timer = null;
  let hiddenTimer = null;
  let heard = 0;
  let failures = 0;
  let state = 'connecting';

  function setState(next, since = new Date()) {
    if (next === state) return;
    state = next;
    on.state(state, since);
  }

  function close() {
    clearTimeout(timer);
    events?.close();
    events = null;
  }

  function stop(last) {
    close();
    setState(last);
  }

  function open() {
    close();
    heard = Date.now();
    events = new EventSource(url);
    events.addEventListener('carillon.nodes', ({ data }) => {
      heard = Date.now();
      failures = 0;
      on.nodes(JSON.parse(data));
      setState('live');
    });
    events.addEventListener('carillon.signout', () => {
      stop('signed out');
      on.signedOut();
    });
    events.onerror = later;
  }

  /** The browser would not try again after any status but 200, so this does. */
  function later() {
    close();
    setState('offline', new Date(heard));
    const pause = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** Math.min(failures, 10));
    failures += 1;
    timer = setTimeout(async () => {
      const mine = timer;
      const status = await probe(url);
      if (mine !== timer || state === 'paused') return;
      if (status === 401) {
        stop('signed out');
        on.signedOut();
      } else if (status === 403) {
        stop('not permitted');
      } else if (status === null) {
        later();
      } else {
        open();
      }
    }, pause * (0.5 + Math.random() / 2));
  }

  setInterval(() => {
    if (events && Date.now() - heard > SILENCE) later();
  }, 1_000);
  addEventListener('online', () => {
    if (state === 'offline') open();
  });
  document.addEventListener('visibilitychange', () => {
    clearTimeout(hiddenTimer);
    if (!document.hidden && state === 'paused') open();
    if (document.hidden && events) hiddenTimer = setTimeout(() => stop('paused'), HIDDEN_FOR);
  });
  open();
}

/** The status of one request, or null without an answer. */
async function probe(url) {
  try {
    const answer = await fetch(url.replace('/stream', ''), { signal: AbortSignal.timeout(PROBE_TIMEOUT) });
    await answer.body?.cancel();
    return answer.status;
  } catch {
    return null;
  }
}
