// Carillon in the browser: docs/browser.md tells how to use it. Nothing to install or to build:
//
//     import { connect } from '/static/carillon.js';
//     const carillon = connect({ account: 'alice', minPriority: 'high' });
//     carillon.on('event', ({ type, data }) => show(type, data));
//     carillon.on('state', ({ state, since }) => tell(state, since));

import { Place } from './place.js';
import { Source } from './source.js';
import { Tabs } from './tabs.js';

/** Events remembered by id. Those before the place that was reached need no remembering. */
const MAX_KNOWN = 1_024;
const SAVE_EVERY = 1_000;
/** A page nobody looks at, with a connection of its own, gives that back: a browser has few to one host. */
const HIDDEN_FOR = 5 * 60_000;
const NAMES = ['event', 'state', 'reset', 'retract', 'expire', 'read'];

/**
 * Opens the stream.
 *
 * - `account`: whose it is, such as the user's name. With it, tabs share one connection and the place is kept over a
 *   reload; without it, this page has a connection of its own and begins with what comes now.
 * - `types`, `topics`, `minPriority`: what to listen to; as of `GET /api/v1/stream`.
 * - `cursor`: where to begin, as the inbox gives it; it wins over a place that was kept, and nothing is kept then.
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
  #hide = () => this.#stop();
  /** A page kept for the back button comes back as it was left, without its connection. */
  #show = ({ persisted }) => persisted && this.#start();
  #hiding = null;
  #look = () => this.#pauseSoon();

  constructor({ account, types, topics, minPriority, cursor, shared = true, url = '/api/v1/stream' }) {
    const address = addressOf(url, types, topics, minPriority);
    const name = account === undefined ? null : `carillon ${JSON.stringify([account, address.href])}`;
    this.#key = cursor === undefined ? name : null;
    this.#place = Place.of(cursor ?? this.#saved());
    if (cursor !== undefined && !this.#place) throw new TypeError(`not a cursor: '${cursor}'`);
    const on = {
      // A handler may have closed this while more was on its way.
      frame: (frame) => this.#link && this.#receive(frame),
      state: (state, since) => this.#link && this.#tell(state, since),
      signedOut: () => this.#signOut(),
      place: () => this.#place?.toString() ?? null,
      welcome: (at) => this.#welcome(at),
    };
    const share = shared && name !== null && navigator.locks && globalThis.BroadcastChannel;
    this.#make = share ? () => new Tabs(name, address, on) : () => new Source(address, on.place(), on);
    if (!share) document.addEventListener('visibilitychange', this.#look);
    addEventListener('pagehide', this.#hide);
    addEventListener('pageshow', this.#show);
    this.#start();
  }

  /** `connecting`, `catching up`, `live`, `offline`, `paused` or `signed out`. */
  get state() {
    return this.#state;
  }

  /** Since when, a Date. */
  get since() {
    return this.#since;
  }

  /** Calls `handler` at each `event`, `state`, `reset`, `retract`, `expire` or `read`; gives what ends that. */
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
    if (this.#link || this.#state === 'signed out') return;
    this.#link = this.#make();
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

  #receive({ name, data, id }) {
    const place = Place.of(id);
    if (name === 'reset') {
      this.#place = place;
      return this.#call('reset', { reason: data.reason });
    }
    const isKnown = name === 'event' && this.#knows(data, place);
    if (place) this.#place = this.#place?.join(place) ?? place;
    if (name === 'alive' && data.live) this.#compare(place);
    if (!isKnown && name !== 'alive') this.#call(name, data);
  }

  /** Whether an event came before; it is known from now on. */
  #knows({ id, position }, place) {
    const isSameLog = this.#place && place?.epoch === this.#place.epoch;
    if ((isSameLog && this.#place.hasSeen(position)) || this.#known.has(id)) return true;
    this.#known.add(id);
    if (this.#known.size > MAX_KNOWN) this.#known.delete(this.#known.values().next().value);
    return false;
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
    if (this.#state === 'signed out' || (state === this.#state && +since === +this.#since)) return;
    this.#state = state;
    this.#since = since;
    this.#call('state', { state, since });
  }

  #signOut() {
    if (this.#state === 'signed out') return;
    this.#place = null;
    this.close();
    this.#tell('signed out', new Date());
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

function addressOf(url, types = [], topics = [], minPriority = '') {
  const address = new URL(url, location.href);
  for (const type of [...new Set(types)].sort()) address.searchParams.append('type', type);
  for (const topic of [...new Set(topics)].sort()) address.searchParams.append('topic', topic);
  if (minPriority) address.searchParams.set('min_priority', minPriority);
  return address;
}
