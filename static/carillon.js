// Carillon in the browser: docs/browser.md tells how to use it. Nothing to install or to build:
//
//     import { connect } from '/static/carillon.js';
//     const carillon = connect({ account: 'alice', minPriority: 'high' });
//     carillon.on('event', ({ type, data }) => show(type, data));
//     carillon.on('state', ({ state, since }) => tell(state, since));

import { History } from './history.js';
import { Place } from './place.js';
import { Source } from './source.js';
import { Tabs } from './tabs.js';

/** Events remembered by id. Those before the place that was reached need no remembering. */
const MAX_KNOWN = 1_024;
const SAVE_EVERY = 1_000;
/** A page nobody looks at, with a connection of its own, gives that back: a browser has few to one host. */
const HIDDEN_FOR = 5 * 60_000;
const NAMES = ['event', 'history', 'state', 'reset', 'retract', 'expire', 'read', 'presence', 'join', 'leave'];
/** The most events of the past that a page begins with. */
const MAX_HISTORY = 100;
/** States that last: asking again would not help. */
const ENDED = ['signed out', 'refused'];

/**
 * Opens the stream.
 *
 * - `account`: the name of the user whose page this is: if somebody else signs in meanwhile, it ends. With it, tabs
 *   share one connection and the place is kept over a reload; without it, this page has a connection of its own and
 *   begins with what comes now.
 * - `types`, `topics`, `minPriority`: what to listen to; as of `GET /api/v1/stream`.
 * - `cursor`: where to begin, as the inbox gives it; it wins over a place that was kept, and nothing is kept then.
 * - `history`: begin with so many events of the past, each time. Nothing is kept then either.
 * - `presence`: true to be told who else listens to the topics, and to be told to them.
 * - `shared`: false for a connection of this page's own all the same.
 * - `url`: the stream's address, on this page's own site.
 */
export function connect(options = {}) {
  return new Carillon(options);
}

class Carillon {
  #handlers = new Map(NAMES.map((name) => [name, new Set()]));
  #state = 'connecting';
  #since = new Date();
  #place;
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
    this.#place = Place.of(cursor ?? this.#saved());
    if (cursor !== undefined && !this.#place) throw new TypeError(`not a cursor: '${cursor}'`);
    const on = {
      // A handler may have closed this while more was on its way.
      frame: (frame) => this.#link && this.#receive(frame),
      state: (state, since) => this.#link && this.#tell(state, since),
      ended: (how) => this.#link && this.#end(how),
      history: (entries, at, isComplete) => this.#link && this.#begin(entries, at, isComplete),
      place: () => this.#place?.toString() ?? null,
      welcome: (at) => this.#welcome(at),
    };
    const share = shared && name !== null && navigator.locks && globalThis.BroadcastChannel;
    this.#make = share ? () => new Tabs(name, address, on) : () => new Source(address, on.place(), on);
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

  /** Calls `handler` at each `event` and whatever else is in `NAMES`; gives what ends that. */
  on(name, handler) {
    const handlers = this.#handlers.get(name);
    if (!handlers) throw new TypeError(`there is no '${name}' to listen to: ${NAMES.join(', ')}`);
    handlers.add(handler);
    return () => handlers.delete(handler);
  }

  /** Ends this page's part in it; other tabs go on. */
  close() {
    clearTimeout(this.#hiding);
    document.removeEventListener('visibilitychange', this.#look);
    removeEventListener('pagehide', this.#hide);
    removeEventListener('pageshow', this.#show);
    this.#stop();
  }

  #start() {
    if (this.#link || ENDED.includes(this.#state)) return;
    this.#link = this.#before && !this.#place ? this.#before() : this.#make();
    if (this.#state !== 'connecting') this.#tell('connecting', new Date());
    if (this.#key) this.#saver = setInterval(() => this.#save(), SAVE_EVERY);
    // After the caller has said what it listens to.
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
      this.#tell('paused', new Date());
    }, HIDDEN_FOR);
  }

  #receive({ name, text, data = parsed(text), id }) {
    if (data === undefined) return;
    const place = Place.of(id);
    if (name === 'reset') {
      this.#place = place;
      this.#call('reset', { reason: data.reason });
      return this.#before && this.#beginAgain();
    }
    const isKnown = name === 'event' && this.#knows(data, place);
    if (name === 'event') Object.defineProperty(data, 'source', { value: text });
    if (place) this.#place = this.#place?.join(place) ?? place;
    if (name === 'alive' && data.live) this.#compare(place);
    if (!isKnown && name !== 'alive') this.#call(name, data);
  }

  /** What came before was read up to `cursor`: from there on it is the stream's. */
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
    this.#place = Place.of(cursor);
    this.#start();
  }

  /** A history that is lost is read again, by many pages at once. */
  #beginAgain() {
    const link = this.#link;
    setTimeout(() => {
      if (this.#link !== link) return;
      this.#stop();
      this.#place = null;
      this.#start();
    }, SAVE_EVERY * Math.random());
  }

  /** Whether an event came before; it is known from now on. */
  #knows({ id, position }, place) {
    const isSameLog = this.#place && place?.epoch === this.#place.epoch;
    if ((isSameLog && this.#place.hasSeen(position)) || this.#known.has(id)) return true;
    this.#remember(id);
    return false;
  }

  #remember(id) {
    this.#known.add(id);
    if (this.#known.size > MAX_KNOWN) this.#known.delete(this.#known.values().next().value);
  }

  /** The leading tab's stream stands at `cursor`, at or before this tab's place. */
  #welcome(cursor) {
    const place = Place.of(cursor);
    const isOther = this.#place && place && this.#place.epoch !== place.epoch;
    if (!this.#place || isOther) this.#place = place;
    if (isOther) this.#call('reset', { reason: 'epoch' });
  }

  /** A tab that has seen more than the log holds, twice in a row, saw what is not there any more. */
  #compare(place) {
    this.#ahead = place && this.#place.position > place.position ? this.#ahead + 1 : 0;
    if (this.#ahead < 2) return;
    this.#ahead = 0;
    this.#receive({ name: 'reset', data: { reason: 'ahead' }, id: place.toString() });
  }

  #tell(state, since) {
    if (ENDED.includes(this.#state) || (state === this.#state && +since === +this.#since)) return;
    this.#state = state;
    this.#since = since;
    this.#call('state', { state, since });
  }

  #end(how) {
    if (how === 'signed out') this.#place = null;
    this.close();
    this.#tell(how, new Date());
  }

  #call(name, detail) {
    for (const handler of [...this.#handlers.get(name)]) {
      try {
        handler(detail);
      } catch (error) {
        // One that fails keeps nothing from the others.
        reportError(error);
      }
    }
  }

  // The place is each tab's own: what this tab has shown, not what another has.

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
      if (this.#place) sessionStorage.setItem(this.#key, this.#place.toString());
      else sessionStorage.removeItem(this.#key);
    } catch {
      // A browser that keeps nothing begins with what comes now.
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
  if (account !== undefined) address.searchParams.set('account', account);
  for (const type of [...new Set(types)].sort()) address.searchParams.append('type', type);
  for (const topic of [...new Set(topics)].sort()) address.searchParams.append('topic', topic);
  if (minPriority) address.searchParams.set('min_priority', minPriority);
  if (presence) address.searchParams.set('presence', 'true');
  return address;
}
