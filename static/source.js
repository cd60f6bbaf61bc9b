// One stream's life: an EventSource, and another whenever the browser has given up or does not notice that the
// connection is dead.
//
// An EventSource does not show comments, so a page cannot see keep-alives. With `alive=true` the server sends them as
// events named `carillon.alive`.

export const FIRST_PAUSE = 1_000;
export const LONGEST_PAUSE = 30_000;
/** The browser tries again by itself, as the server's `retry:` says; so often in a row and no more. */
const OWN_TRIES = 3;
/** A connection that was live for so many milliseconds resets the pause before the next attempt. */
const STEADY = 10_000;
/** How long a silence ends a connection: before the server has said its interval of keep-alives, and afterwards in
 *  intervals. */
const FIRST_SILENCE = 30_000;
const SILENT_INTERVALS = 2.5;
const LEAST_SILENCE = 5_000;
const TICK = 1_000;
const ANSWER_WITHIN = 8_000;
const NAMED = ['connected', 'reset', 'read', 'retract', 'expire', 'presence', 'join', 'leave', 'alive', 'signout'];

/** The parameters without which a stream would bring something else than the page asked for. */
const NEEDED = ['account', 'type', 'topic', 'min_priority', 'presence', 'cursor', 'alive'];

export class Source {
  /** The stream's cursor as text: where another stream would go on. Null before the first frame. */
  cursor;
  state = 'connecting';
  since = new Date();
  #url;
  #on;
  #events = null;
  #heard = Date.now();
  #silence = FIRST_SILENCE;
  #pause = FIRST_PAUSE;
  #liveSince = null;
  #failures = 0;
  #timer = null;
  #ticker = null;
  #again = () => this.#restart();

  /** `on`: `frame({name, data, id})`, of an event with its JSON as `text` instead of `data`, `state(state, since)` and
   *  `ended(state)`: `signed out` or `refused`. */
  constructor(url, cursor, on) {
    this.#url = url;
    this.cursor = cursor;
    this.#on = on;
  }

  start() {
    // Either way the network has changed; whether the server can be reached is known only after trying.
    addEventListener('online', this.#again);
    addEventListener('offline', this.#again);
    this.#ticker = setInterval(() => this.checkSilence(), TICK);
    this.#open();
  }

  stop() {
    removeEventListener('online', this.#again);
    removeEventListener('offline', this.#again);
    clearInterval(this.#ticker);
    this.#close();
  }

  /** How long nothing may be heard, in milliseconds. */
  get silence() {
    return this.#silence;
  }

  /** Begins again at an earlier cursor. What was seen already comes once more. */
  rewind(cursor) {
    this.cursor = cursor;
    // Also for tabs that are further: notices, such as what was read, may be missed meanwhile and are not repeated.
    if (this.state === 'live') this.#setState('catching up');
    this.#open();
  }

  /** Replaces a connection that is silent for too long, such as after the machine slept or changed its network. */
  checkSilence() {
    if (!this.#events || Date.now() - this.#heard < this.#silence) return;
    this.#lost(new Date(this.#heard));
    this.#later();
  }

  #restart() {
    this.#failures = 0;
    if (this.state === 'live') this.#lost(new Date());
    this.#open();
  }

  #open() {
    this.#close();
    const url = new URL(this.#url);
    url.searchParams.set('alive', 'true');
    if (this.cursor) url.searchParams.set('cursor', this.cursor);
    const events = new EventSource(url);
    this.#events = events;
    this.#heard = Date.now();
    events.onmessage = (message) => this.#receive('event', message);
    for (const name of NAMED) events.addEventListener(`carillon.${name}`, (message) => this.#receive(name, message));
    events.onerror = () => {
      this.#lost(new Date());
      this.#failures += 1;
      if (events.readyState === EventSource.CLOSED || this.#failures > OWN_TRIES) this.#later();
    };
  }

  #receive(name, { data: text, lastEventId: id }) {
    this.#heard = Date.now();
    if (name === 'connected') return this.#connected(JSON.parse(text), id);
    if (id) this.cursor = id;
    if (name === 'signout') return this.#on.ended('signed out');
    // What publishers wrote, as text: nested very deeply it can be parsed, but not be given to another tab.
    if (name === 'event') return this.#on.frame({ name, text, id });
    const data = JSON.parse(text);
    this.#on.frame({ name, data, id });
    if (name === 'alive') this.#alive(data);
  }

  /** A node that does not know a parameter, as during an upgrade, is left before it brings anything: another may. */
  #connected({ ignored = [] }, id) {
    if (!ignored.some((name) => NEEDED.includes(name))) {
      if (id) this.cursor = id;
      return;
    }
    this.#lost(new Date());
    this.#failures += 1;
    this.#later();
  }

  #alive({ live, heartbeat, retry }) {
    if (heartbeat > 0) this.#silence = Math.max(LEAST_SILENCE, heartbeat * 1_000 * SILENT_INTERVALS);
    if (retry > 0) this.#pause = Math.min(LONGEST_PAUSE, retry * 1_000);
    if (live) {
      this.#liveSince ??= Date.now();
      this.#setState('live');
    } else {
      this.#setState('catching up');
    }
  }

  #lost(since) {
    if (this.#liveSince !== null && Date.now() - this.#liveSince > STEADY) this.#failures = 0;
    this.#liveSince = null;
    this.#setState('offline', since);
  }

  /** The browser gave up, or tried often enough: after a pause asks why, and begins again unless the session is over. */
  #later() {
    this.#close();
    const longest = Math.min(LONGEST_PAUSE, this.#pause * 2 ** Math.min(this.#failures, 10));
    const timer = setTimeout(async () => {
      const { status, ended } = await ask(this.#url, 1);
      if (timer !== this.#timer) return;
      if (ended) return this.#on.ended(ended);
      this.#failures += 1;
      // After any answer a stream may work; without one it would fail as well.
      if (status === null) this.#later();
      else this.#open();
    }, nearly(longest));
    this.#timer = timer;
  }

  #close() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#events?.close();
    this.#events = null;
  }

  #setState(state, since = new Date()) {
    if (state === this.state) return;
    this.state = state;
    this.since = since;
    this.#on.state(state, since);
  }
}

/** At least half of it, so that many pages neither come at once nor hammer. */
export function nearly(pause) {
  return pause * (0.5 + Math.random() / 2);
}

/** The parameters of a stream that `GET /api/v1/inbox` takes, too. */
const ASKED = ['account', 'type', 'topic', 'min_priority'];

/**
 * Reads the inbox with the filter of the stream at `url`: `{status, body, ended}`. The status is null without an answer;
 * `ended` says that asking again would not help.
 */
export async function ask(url, limit) {
  const address = new URL('inbox', url);
  for (const [name, value] of new URL(url).searchParams) if (ASKED.includes(name)) address.searchParams.append(name, value);
  address.searchParams.set('limit', limit);
  try {
    const answer = await fetch(address, { signal: AbortSignal.timeout(ANSWER_WITHIN) });
    const ended = { 400: 'refused', 401: 'signed out', 403: 'refused' }[answer.status];
    return { status: answer.status, ended, body: await answer.json().catch(() => null) };
  } catch {
    return { status: null };
  }
}
