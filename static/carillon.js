// Carillon in the browser: docs/browser.md says how to use it. Nothing to install or to build:
//
//     import { connect } from '/static/carillon.js';
//     const carillon = connect({ account: 'alice', minPriority: 'high' });
//     carillon.on('event', ({ type, data }) => show(type, data));
//     carillon.on('state', ({ state, since }) => showState(state, since));

import { Cursor } from './cursor.js';
import { History } from './history.js';
import { Source } from './source.js';
import { Tabs } from './tabs.js';

/** How many ids of events are remembered; what the cursor covers needs none. */
const MAX_KNOWN = 1_024;
/** How often the cursor is saved, in milliseconds. */
const SAVE_EVERY = 1_000;
/** A hidden page closes a connection of its own after so many milliseconds: a browser has few to one host. */
const HIDDEN_FOR = 5 * 60_000;
const NAMES = ['event', 'history', 'state', 'reset', 'retract', 'expire', 'read', 'presence', 'join', 'leave'];
/** The most events of the past that a page begins with. */
const MAX_HISTORY = 100;
/** Final states: asking again would not help. */
const ENDED = ['signed out', 'refused'];

/**
 * Opens the stream.
 *
 * - `account`: the name of the user whose page this is: if somebody else signs in meanwhile, it ends. With it, tabs
 *   share one connection and the cursor is kept over a reload; without it, this page has a connection of its own and
 *   begins with the next event.
 * - `types`, `topics`, `minPriority`: what to listen to; as of `GET /api/v1/stream`.
 * - `cursor`: where to begin, as the inbox gives it; it wins over a cursor that was kept, and nothing is kept then.
 * - `history`: begin with so many events of the past, each time. Nothing is kept then either.
 * - `presence`: true to get who else listens to the topics, and to be shown to them.
 * - `shared`: false for a connection of this page's own although there is an account.
 * - `url`: the stream's address, on this page's own site.
 */
export function connect(options = {}) {
  return new Carillon(options);
}

class Carillon {
  #handlers = new Map(NAMES.map((name) => [name, new Set()]));
  #state = 'connecting';
  #since = new Date();
  #cursor;
  #known = new Set();
  #ahead = 0;
  #link = null;
  #key = null;
  #saver = null;
  #make;
  #before = null;
  #hide = () => this.#stop();
  /** A page kept for the back button comes back as it was left, without its connection. */
  #show = ({ persisted }) => persisted && this.#start();
  #hiding = null;
  #look = () => this.#pauseSoon();

  constructor({ cursor, history = 0, shared = true, url = '/api/v1/stream', ...listening }) {
    if (!(Number.isInteger(history) && history >= 0 && history <= MAX_HISTORY)) {
      throw new TypeError(`history must be 0 to ${MAX_HISTORY}`);
    }
    const address = addressOf(url, listening);
    const name = listening.account === undefined ? null : `carillon ${address.href}`;
    this.#key = cursor === undefined && history === 0 ? name : null;
    this.#cursor = Cursor.of(cursor ?? this.#saved());
    if (cursor !== undefined && !this.#cursor) throw new TypeError(`not a cursor: '${cursor}'`);
    const on = {
      // A handler may have closed this while more was on its way.
      frame: (frame) => this.#link && this.#receive(frame),
      state: (state, since) => this.#link && this.#setState(state, since),
      ended: (how) => this.#link && this.#end(how),
      history: (entries, at, isComplete) => this.#link && this.#begin(entries, at, isComplete),
      cursor: () => this.#cursor?.toString() ?? null,
      welcome: (at) => this.#welcome(at),
    };
    const share = shared && name !== null && navigator.locks && globalThis.BroadcastChannel;
    this.#make = share ? () => new Tabs(name, address, on) : () => new Source(address, on.cursor(), on);
    if (history > 0) this.#before = () => new History(address, history, on);
    if (!share) document.addEventListener('visibilitychange', this.#look);
    addEventListener('pagehide', this.#hide);
    addEventListener('pageshow', this.#show);
    this.#start();
  }

  /** `connecting`, `catching up`, `live`, `offline`, `paused`, `signed out` or `refused`. */
  get state() {
    return this.#state;
  }

  /** Since when, a Date. */
  get since() {
    return this.#since;
  }

  /** Calls `handler` for each `name` of `NAMES` from now on. Returns a function that ends that. */
  on(name, handler) {
    const handlers = this.#handlers.get(name);
    if (!handlers) throw new TypeError(`there is no '${name}' to listen to: ${NAMES.join(', ')}`);
    handlers.add(handler);
    return () => handlers.delete(handler);
  }

  /** Stops listening in this page; other tabs go on. */
  close() {
    clearTimeout(this.#hiding);
    document.removeEventListener('visibilitychange', this.#look);
    removeEventListener('pagehide', this.#hide);
    removeEventListener('pageshow', this.#show);
    this.#stop();
  }

  #start() {
    if (this.#link || ENDED.includes(this.#state)) return;
    this.#link = this.#before && !this.#cursor ? this.#before() : this.#make();
    if (this.#state !== 'connecting') this.#setState('connecting', new Date());
    if (this.#key) this.#saver = setInterval(() => this.#save(), SAVE_EVERY);
    // After the caller has added its handlers.
    const link = this.#link;
    queueMicrotask(() => this.#link === link && link.start());
  }

  #stop() {
    if (!this.#link) return;
    clearInterval(this.#saver);
    this.#save();
    this.#link.stop();
    this.#link = null;
  }

  #pauseSoon() {
    clearTimeout(this.#hiding);
    if (!document.hidden) return void (this.#state === 'paused' && this.#start());
    this.#hiding = setTimeout(() => {
      if (!this.#link) return;
      this.#stop();
      this.#setState('paused', new Date());
    }, HIDDEN_FOR);
  }

  #receive({ name, text, data = parsed(text), id }) {
    if (data === undefined) return;
    const cursor = Cursor.of(id);
    if (name === 'reset') {
      this.#cursor = cursor;
      this.#call('reset', { reason: data.reason });
      return this.#before && this.#beginAgain();
    }
    const isKnown = name === 'event' && this.#knows(data, cursor);
    if (name === 'event') Object.defineProperty(data, 'source', { value: text });
    if (cursor) this.#cursor = this.#cursor?.join(cursor) ?? cursor;
    if (name === 'alive' && data.live) this.#compare(cursor);
    if (!isKnown && name !== 'alive') this.#call(name, data);
  }

  /** The history was read up to `cursor`; the stream goes on from there. */
  #begin(entries, cursor, isComplete) {
    const link = this.#link;
    const unknown = entries.reverse().filter(({ id }) => !this.#known.has(id));
    for (const entry of unknown) {
      if (this.#link !== link) return;
      this.#remember(entry.id);
      this.#call('event', entry);
    }
    this.#call('history', { events: unknown.length, complete: isComplete });
    if (this.#link !== link) return;
    this.#stop();
    this.#cursor = Cursor.of(cursor);
    this.#start();
  }

  /** Reads the history anew, after a random delay: many pages do so at once. */
  #beginAgain() {
    const link = this.#link;
    setTimeout(() => {
      if (this.#link !== link) return;
      this.#stop();
      this.#cursor = null;
      this.#start();
    }, SAVE_EVERY * Math.random());
  }

  /** Whether an event was seen already; from now on it is known. */
  #knows({ id, position }, cursor) {
    const isSameLog = this.#cursor && cursor?.epoch === this.#cursor.epoch;
    if ((isSameLog && this.#cursor.hasSeen(position)) || this.#known.has(id)) return true;
    this.#remember(id);
    return false;
  }

  #remember(id) {
    this.#known.add(id);
    if (this.#known.size > MAX_KNOWN) this.#known.delete(this.#known.values().next().value);
  }

  /** The leading tab's stream is at the cursor `text`, at or before this tab's cursor. */
  #welcome(text) {
    const cursor = Cursor.of(text);
    const isOther = this.#cursor && cursor && this.#cursor.epoch !== cursor.epoch;
    if (!this.#cursor || isOther) this.#cursor = cursor;
    if (isOther) this.#call('reset', { reason: 'epoch' });
  }

  /** A tab that is ahead of the stream twice in a row has seen events that the log no longer holds. */
  #compare(cursor) {
    this.#ahead = cursor && this.#cursor.position > cursor.position ? this.#ahead + 1 : 0;
    if (this.#ahead < 2) return;
    this.#ahead = 0;
    this.#receive({ name: 'reset', data: { reason: 'ahead' }, id: cursor.toString() });
  }

  #setState(state, since) {
    if (ENDED.includes(this.#state) || (state === this.#state && +since === +this.#since)) return;
    this.#state = state;
    this.#since = since;
    this.#call('state', { state, since });
  }

  #end(how) {
    if (how === 'signed out') this.#cursor = null;
    this.close();
    this.#setState(how, new Date());
  }

  #call(name, detail) {
    for (const handler of [...this.#handlers.get(name)]) {
      try {
        handler(detail);
      } catch (error) {
        // The other handlers are called all the same.
        reportError(error);
      }
    }
  }

  // Each tab saves its own cursor: what this tab was given, not what another was.

  #saved() {
    try {
      return this.#key && sessionStorage.getItem(this.#key);
    } catch {
      return null;
    }
  }

  #save() {
    try {
      if (!this.#key) return;
      if (this.#cursor) sessionStorage.setItem(this.#key, this.#cursor.toString());
      else sessionStorage.removeItem(this.#key);
    } catch {
      // Without storage a reload begins with the next event.
    }
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function addressOf(url, { account, types = [], topics = [], minPriority = '', presence = false }) {
  const address = new URL(url, location.href);
  // Another form may have no ids, and its events may be called as those of an EventSource itself, such as `error`.
  address.searchParams.delete('form');
  if (account !== undefined) address.searchParams.set('account', account);
  for (const type of [...new Set(types)].sort()) address.searchParams.append('type', type);
  for (const topic of [...new Set(topics)].sort()) address.searchParams.append('topic', topic);
  if (minPriority) address.searchParams.set('min_priority', minPriority);
  if (presence) address.searchParams.set('presence', 'true');
  return address;
}
