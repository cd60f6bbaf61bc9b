// The entries on the page: newest first, each once, and never more than fit.

import { Entry } from './entry.js';

/** The most entries on the page. */
export const MAX_ENTRIES = 500;

export class EntryList {
  #byId = new Map();
  #byPosition = new Map();

  constructor(element, blank) {
    this.element = element;
    this.blank = blank;
    /** Whether older entries had to leave to make room. */
    this.hasTrimmed = false;
    for (const item of [...element.children]) this.#know(new Entry(item));
  }

  get size() {
    return this.#byId.size;
  }

  get isFull() {
    return this.size >= MAX_ENTRIES;
  }

  get newest() {
    return [...this.#byPosition.keys()].reduce((a, b) => Math.max(a, b), 0);
  }

  entries() {
    return [...this.#byId.values()];
  }

  byId(id) {
    return this.#byId.get(id);
  }

  byPosition(position) {
    return this.#byPosition.get(position);
  }

  /** Puts an event in its place. The new entry, or null if it is there already or older than what fits. */
  add(event) {
    if (this.#byId.has(event.id)) return null;
    const entry = Entry.of(event, this.blank);
    // Urgent ones overtake others in a backlog, so the top is not always the place.
    let before = this.element.firstElementChild;
    while (before && Number(before.dataset.position) > entry.position) before = before.nextElementSibling;
    if (!before && this.isFull) {
      this.hasTrimmed = true;
      return null;
    }
    this.element.insertBefore(entry.element, before);
    this.#know(entry);
    if (this.size > MAX_ENTRIES) this.#trim();
    return entry;
  }

  remove(entry) {
    // Whoever was on it goes on to its neighbour instead of back to the top of the page.
    if (entry.element.contains(document.activeElement)) {
      const near = entry.element.nextElementSibling ?? entry.element.previousElementSibling;
      (near?.querySelector('.toggle-read') ?? this.element).focus();
    }
    entry.element.remove();
    this.#byId.delete(entry.id);
    this.#byPosition.delete(entry.position);
  }

  clear() {
    this.entries().forEach((entry) => this.remove(entry));
    this.hasTrimmed = false;
  }

  #know(entry) {
    this.#byId.set(entry.id, entry);
    this.#byPosition.set(entry.position, entry);
  }

  #trim() {
    this.hasTrimmed = true;
    this.remove(this.#byId.get(this.element.lastElementChild.dataset.id));
  }
}
