// Brings the page up to date with the server: reads the newest page of the list, older pages, the counts. Frames of the
// stream that come while the list is read are applied on top of it.

import { call, SignedOut } from './api.js';
import { elements, members } from './json.js';
import { MAX_ENTRIES } from './list.js';

const CHECK_EVERY = 60_000;
/** Pages of a filtered list may be empty: after so many in a row the user must ask for more. */
const MAX_EMPTY_PAGES = 5;
/** How many checks may be in vain before the next regular one is waited for. */
const MAX_VAIN = 3;
const random = (least, most) => least + Math.random() * (most - least);

/** A page of the list: its entries with their data as it was written, and where the next one begins. */
async function page(path) {
  const text = await call(path, { asText: true });
  const { entries, next } = JSON.parse(text);
  const written = elements(members(text).get('entries'));
  return { entries: entries.map((event, index) => ({ event, data: members(written[index]).get('data') })), next };
}

export class Sync {
  #list;
  #filter;
  #on;
  #held = null;
  #readAgain = false;
  #replaceNext = false;
  #refreshTimer = null;
  #checkTimer = null;
  #emptyPages = 0;
  /** How many frames came, and how many checks in a row were in vain because some did. */
  #frames = 0;
  #vain = 0;
  /** After a failure, older pages are read only when the user asks. */
  #isAutomatic = true;

  /** `on`: `counts(counts)`, `newer(event, data)`, `cleared()`, `changed()`, `attempt(work)` and `signedOut()`. */
  constructor(list, filter, next, on) {
    this.#list = list;
    this.#filter = filter;
    /** Where the next older page begins; null if there is none. */
    this.next = next;
    this.#on = on;
    setInterval(() => {
      this.#vain = 0;
      if (!document.hidden) this.#check();
    }, CHECK_EVERY * random(0.8, 1.2));
    setTimeout(() => this.#check(), random(0, 2_000));
  }

  /** Applies a frame, now or after the list that is being read. */
  apply(work) {
    this.#frames += 1;
    if (this.#held === null) return work();
    this.#held.push(work);
    // So many that the list being read is old already: those kept fill the page, and it is read once more.
    if (this.#held.length > 2 * MAX_ENTRIES) {
      this.#held.shift();
      this.#readAgain = true;
    }
  }

  /** Reads the newest page and makes the list agree with it; `replace`: what is shown so far is discarded. */
  async refresh(replace = false) {
    this.#replaceNext ||= replace;
    clearTimeout(this.#refreshTimer);
    this.#refreshTimer = null;
    if (this.#held !== null) return void (this.#refreshTimer = setTimeout(() => this.refresh(), 1_000));
    this.#held = [];
    const worked = await this.#on.attempt(async () => {
      const fresh = await page(this.#filter.page());
      const counts = await call(this.#filter.counts);
      if (this.#replaceNext) {
        this.#list.clear();
        this.#on.cleared();
        this.next = fresh.next;
        this.#replaceNext = false;
      }
      this.#merge(fresh);
      // Frames held from here on are in the counts as often as not; the next check corrects them.
      this.#on.counts(counts);
    });
    const frames = this.#held;
    this.#held = null;
    frames.forEach((work) => work());
    this.#on.changed();
    if (this.#readAgain) this.refreshSoon();
    else if (worked && frames.length > 0) this.checkSoon();
    this.#readAgain = false;
    if (!worked) this.#refreshTimer ??= setTimeout(() => this.refresh(), random(5_000, 15_000));
  }

  /** Spread over some seconds: many pages hear the same at once. */
  refreshSoon() {
    this.#refreshTimer ??= setTimeout(() => this.refresh(), random(500, 5_000));
  }

  #merge({ entries, next }) {
    const there = new Set(entries.map(({ event }) => event.id));
    // A page may be short or empty, and yet not the last: `next` says how far it looked.
    const lowest = next === null ? 0 : Number(next.split('-')[1]);
    for (const entry of this.#list.entries()) {
      if (entry.position < lowest || there.has(entry.id)) continue;
      // An open entry stays until it is closed.
      if (entry.isOpen) entry.hasLeft = true;
      else this.#list.remove(entry);
    }
    const { newest } = this.#list;
    for (const { event, data } of entries.reverse()) {
      const known = this.#list.byId(event.id);
      if (known) known.isRead = Boolean(event.read_at);
      else if (event.position > newest && newest > 0) this.#on.newer(event, data);
      else this.#list.add(event, data);
    }
  }

  /** Whether a page of older entries may be read now; `byHand`: the user asked for it. */
  mayLoad(byHand) {
    return this.next !== null && !this.#list.isFull
      && (byHand || (this.#isAutomatic && this.#emptyPages < MAX_EMPTY_PAGES));
  }

  /** Appends a page of older entries; returns those that were added. */
  async older(byHand) {
    if (byHand) this.#emptyPages = 0;
    const key = this.next;
    let added = [];
    this.#isAutomatic = await this.#on.attempt(async () => {
      const older = await page(this.#filter.page(key));
      // The list was read anew meanwhile: this page no longer follows it.
      if (this.next !== key) return;
      added = older.entries.map(({ event, data }) => this.#list.add(event, data)).filter(Boolean);
      this.#emptyPages = older.entries.length === 0 ? this.#emptyPages + 1 : 0;
      this.next = older.next;
    });
    this.#on.changed();
    return added;
  }

  /** Compares the number of unread entries, and notices a session that is over. */
  async #check() {
    clearTimeout(this.#checkTimer);
    this.#checkTimer = null;
    const before = this.#frames;
    try {
      const counts = await call(this.#filter.counts);
      // Whether the answer includes what came meanwhile is not known. Under load, the page's own count stands.
      if (this.#frames !== before) return void (this.#vain++ < MAX_VAIN && this.checkSoon());
      this.#vain = 0;
      this.#on.counts(counts);
      this.#on.changed();
    } catch (error) {
      // The stream shows whether the server can be reached.
      if (error instanceof SignedOut) this.#on.signedOut();
    }
  }

  checkSoon() {
    this.#checkTimer ??= setTimeout(() => this.#check(), random(1_000, 5_000));
  }
}
