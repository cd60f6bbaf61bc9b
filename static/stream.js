// The stream's life in the browser. EventSource reconnects by itself after a broken connection, but gives up
// after any answer other than 200; and a sleeping or offline machine may not notice that a connection is dead.

import { call, SignedOut } from './api.js';

const FIRST_PAUSE = 1_000;
const LONGEST_PAUSE = 30_000;
/** A connection that lasted this long was a good one: the next trouble starts with a short pause again. */
const STEADY = 10_000;
/** A node that cannot serve now answers with a stream that ends at once: that is not being live. */
const PROBATION = 300;
/** A browser has few connections to one host: a page nobody looks at gives its own back. */
const HIDDEN_FOR = 5 * 60_000;
const TICK = 5_000;
/** Ticks this far apart mean that the machine slept. */
const SLEPT = 30_000;
const CONTROLS = ['carillon.reset', 'carillon.read', 'carillon.retract', 'carillon.expire', 'carillon.signout'];

export class Stream extends EventTarget {
  #source = null;
  #cursor;
  #query;
  #attempts = 0;
  #openedAt = 0;
  #timer = null;
  #hiddenTimer = null;
  #probation = null;
  #opens = 0;
  #state = 'connecting';

  /** Fires `state` {state, since}, `entry` (an event), `control` {name, data} and `resumed`. */
  constructor(cursor, query) {
    super();
    this.#cursor = cursor;
    this.#query = query;
  }

  start() {
    this.#open();
    // Either way the network is another one now; whether the server can be reached, only trying tells.
    addEventListener('offline', () => this.restart());
    addEventListener('online', () => this.restart());
    // A page kept for the back button comes back with its connection cut.
    addEventListener('pagehide', () => this.#close());
    addEventListener('pageshow', (shown) => shown.persisted && this.restart());
    document.addEventListener('visibilitychange', () => this.#watch());
    let last = Date.now();
    setInterval(() => {
      const slept = Date.now() - last > SLEPT;
      last = Date.now();
      // Hidden pages have slow timers, which look like sleep.
      if (slept && !document.hidden) this.restart();
    }, TICK);
  }

  /** Drops the connection, whatever it seems to be, and opens another where this one ended. */
  restart() {
    if (this.#isOver) return;
    this.#attempts = 0;
    this.#lost();
    this.#open();
  }

  /** Signed out: nothing is tried any more. */
  end() {
    this.#close();
    this.#tell('signed-out');
  }

  get #isOver() {
    return this.#state === 'signed-out';
  }

  #open() {
    this.#close();
    const query = new URLSearchParams(this.#query);
    query.set('cursor', this.#cursor);
    const source = new EventSource(`/api/v1/stream?${query}`);
    this.#source = source;
    source.onopen = () => {
      clearTimeout(this.#probation);
      this.#probation = setTimeout(() => this.#opened(), PROBATION);
    };
    source.onmessage = (message) => this.#receive('entry', message);
    for (const name of CONTROLS) {
      source.addEventListener(name, (message) => this.#receive('control', message, name));
    }
    source.onerror = () => {
      this.#lost();
      if (source.readyState === EventSource.CLOSED) this.#later();
    };
  }

  #opened() {
    this.#openedAt = Date.now();
    this.#tell('live');
    if (this.#opens++ > 0) this.dispatchEvent(new Event('resumed'));
  }

  #receive(kind, message, name) {
    if (message.lastEventId) this.#cursor = message.lastEventId;
    let data;
    try {
      data = JSON.parse(message.data);
    } catch {
      return;
    }
    this.dispatchEvent(new CustomEvent(kind, { detail: name ? { name, data } : data }));
  }

  #lost() {
    clearTimeout(this.#probation);
    if (this.#openedAt && Date.now() - this.#openedAt > STEADY) this.#attempts = 0;
    this.#openedAt = 0;
    this.#tell('reconnecting');
  }

  /** The browser gave up: after a pause, ask why, and try again unless the session is over. */
  #later() {
    this.#close();
    const longest = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** this.#attempts++);
    // At least half, so that many pages neither come at once nor hammer.
    const pause = longest * (0.5 + Math.random() / 2);
    this.#timer = setTimeout(async () => {
      const timer = this.#timer;
      try {
        await call('/inbox/counts');
      } catch (error) {
        if (error instanceof SignedOut) return this.#signedOut();
        // An answer is one, whatever it says; without any the stream has no better chance.
        if (error.status === undefined && timer === this.#timer) return this.#later();
      }
      if (timer === this.#timer && !this.#isOver) this.#open();
    }, pause);
  }

  #signedOut() {
    this.dispatchEvent(new CustomEvent('control', { detail: { name: 'carillon.signout', data: {} } }));
  }

  #watch() {
    clearTimeout(this.#hiddenTimer);
    if (document.hidden) {
      this.#hiddenTimer = setTimeout(() => {
        if (this.#isOver) return;
        this.#close();
        this.#tell('paused');
      }, HIDDEN_FOR);
    } else if (this.#state === 'paused') {
      this.restart();
    }
  }

  #close() {
    clearTimeout(this.#timer);
    clearTimeout(this.#probation);
    this.#timer = null;
    this.#source?.close();
    this.#source = null;
  }

  #tell(state) {
    if (state === this.#state || this.#isOver) return;
    this.#state = state;
    this.dispatchEvent(new CustomEvent('state', { detail: { state, since: new Date() } }));
  }
}
