// One stream for all tabs of a browser. The tab that holds the lock is the leader: it has the stream and passes its frames
// to the others over a channel. When it goes, for whatever reason, the browser gives the lock to the next.
//
// A tab takes frames only from the leader that welcomed it, and a leader welcomes a tab only when its stream stands at
// or before what that tab has seen: it begins again earlier if need be. So each tab sees all from its own cursor on,
// and drops what it knows.

import { Cursor } from './cursor.js';
import { Presence } from './presence.js';
import { Source } from './source.js';

const TICK = 5_000;
/** A leader that does not answer for this long hangs: the lock is taken from it. */
const ANSWER_WITHIN = 10_000;
const FIRST_QUIET = 30_000;
/** Joins are answered together, since each may begin the stream again. */
const GATHER = 20;
const PRESENCE = ['presence', 'join', 'leave'];

export class Tabs {
  #name;
  #url;
  #on;
  #id = crypto.randomUUID();
  #channel = null;
  #abort = null;
  #leaving = null;
  #source = null;
  #presence = null;
  /** Of the leader: the tabs that wait to be welcomed, and their cursors. */
  #joining = new Map();
  #gathering = null;
  /** Of a follower: the leader that welcomed it, when that was heard last, since when it owes an answer. */
  #leader = null;
  #heard = Date.now();
  #asked = null;
  #quiet = FIRST_QUIET;
  #ticker = null;
  #isStealing = false;

  /** `on`: `frame`, `state` and `ended` as of a `Source`, `cursor()`, and `welcome(cursor)` from a leader. */
  constructor(name, url, on) {
    this.#name = name;
    this.#url = url;
    this.#on = on;
  }

  start() {
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    this.#ticker = setInterval(() => this.#watch(), TICK);
    this.#heard = Date.now();
    this.#join();
    this.#campaign(this.#channel);
  }

  stop() {
    clearInterval(this.#ticker);
    this.#channel?.close();
    this.#channel = null;
    this.#abort?.abort();
    this.#stepDown();
  }

  // Who leads

  async #campaign(channel) {
    while (this.#channel === channel) {
      this.#abort = new AbortController();
      const how = this.#isStealing ? { steal: true } : { signal: this.#abort.signal };
      this.#isStealing = false;
      try {
        await navigator.locks.request(this.#name, how, () => this.#channel === channel && this.#lead());
      } catch {
        // Another tab took the lock, or this one asks again to take it, or it stops.
        if (this.#channel !== channel) return;
        this.#stepDown();
        this.#join();
      }
    }
  }

  #lead() {
    this.#leader = this.#id;
    this.#presence = new Presence();
    const source = new Source(this.#url, this.#on.cursor(), {
      frame: (frame) => {
        if (PRESENCE.includes(frame.name)) this.#presence.apply(frame.name, frame.data);
        this.#say({ kind: 'frame', frame, quiet: source.silence });
        this.#on.frame(frame);
        if (this.#joining.size > 0) this.#welcomeSoon();
      },
      state: (state, since) => {
        this.#say({ kind: 'state', state, since });
        this.#on.state(state, since);
      },
      ended: (how) => {
        this.#say({ kind: 'ended', how });
        this.#on.ended(how);
      },
    });
    this.#source = source;
    this.#say({ kind: 'lead', state: source.state, since: source.since });
    source.start();
    this.#on.state(source.state, source.since);
    return new Promise((leave) => {
      this.#leaving = leave;
    });
  }

  #stepDown() {
    clearTimeout(this.#gathering);
    this.#gathering = null;
    this.#joining.clear();
    this.#source?.stop();
    this.#source = null;
    this.#leader = null;
    this.#leaving?.();
    this.#leaving = null;
  }

  #welcomeSoon() {
    this.#gathering ??= setTimeout(() => {
      this.#gathering = null;
      // The stream has no cursor before its first frame: then there is nothing to compare with.
      const here = Cursor.of(this.#source.cursor);
      if (!here) return;
      const cursors = [...this.#joining.values()].map(Cursor.of);
      const behind = cursors.filter((one) => one && one.epoch === here.epoch && !one.covers(here));
      if (behind.length > 0) this.#source.rewind(behind.reduce((all, one) => all.meet(one), here).toString());
      const { state, since, cursor } = this.#source;
      const present = this.#presence.all();
      for (const to of this.#joining.keys()) this.#say({ kind: 'welcome', to, cursor, state, since, present });
      this.#joining.clear();
    }, GATHER);
  }

  // Messages between tabs

  #say(message) {
    this.#channel?.postMessage({ ...message, from: this.#id });
  }

  #join() {
    this.#leader = null;
    this.#say({ kind: 'join', cursor: this.#on.cursor() });
  }

  #hear(message) {
    if (message.kind === 'ended') return this.#on.ended(message.how);
    if (message.kind === 'join') return this.#source && this.#joined(message);
    // Another tab leads: the lock was taken from this one, whose request fails in a moment.
    if (this.#source) return;
    this.#heard = Date.now();
    this.#asked = null;
    const { kind, from, state, since } = message;
    if (kind === 'lead') this.#join();
    if (kind === 'welcome' && message.to === this.#id) {
      this.#leader = from;
      this.#on.welcome(message.cursor);
      // The stream sent these when it began, before this tab listened.
      for (const data of message.present) this.#on.frame({ name: 'presence', data, id: '' });
    }
    if (kind === 'frame') {
      this.#quiet = message.quiet;
      if (from === this.#leader) this.#on.frame(message.frame);
      // Another leader than the one that welcomed this tab.
      else if (this.#leader !== null) this.#join();
    }
    if (state && (message.to ?? this.#id) === this.#id) this.#on.state(state, since);
  }

  #joined({ from, cursor }) {
    // A join is also the question whether this tab still lives. Its timers may sleep; messages do not.
    this.#source.checkSilence();
    const { state, since } = this.#source;
    // The state `live` comes with the welcome: from then on nothing is missed.
    if (state !== 'live') this.#say({ kind: 'state', to: from, state, since });
    this.#joining.set(from, cursor);
    this.#welcomeSoon();
  }

  /** A follower asks a leader that is silent, and takes the lock from one that does not answer. */
  #watch() {
    if (this.#source || document.hidden || Date.now() - this.#heard < this.#quiet + TICK) return;
    if (this.#asked === null) {
      this.#asked = Date.now();
      this.#join();
    } else if (Date.now() - this.#asked > ANSWER_WITHIN) {
      this.#asked = null;
      this.#heard = Date.now();
      this.#isStealing = true;
      this.#abort.abort();
    }
  }
}
