// The entries on the page: newest first, each once, a bounded number.

import { Entry } from './entry.js';

/** The most entries on the page. */
export const MAX_ENTRIES = 500;
/** Of entries that ended, a line each stays for a while, and no more lines than this. */
const MAX_TRACES = 3;
const TRACE_FOR = 10_000;

export class EntryList {
  #byId = new Map();
  #byPosition = new Map();
  #newest = 0;

  constructor(element, blank) {
    this.element = element;
    this.blank = blank;
    /** Whether older entries had to leave to make room. */
    this.hasTrimmed = false;
    for (const item of [...element.children]) this.#know(Entry.in(item));
  }

  get size() {
    return this.#byId.size;
  }

  get isFull() {
    return this.size >= MAX_ENTRIES;
  }

  /** The highest position that was shown. */
  get newest() {
    return this.#newest;
  }

  /** Whether somebody reads here: an entry is open, has the focus, or holds what is selected. */
  get isBeingRead() {
    const { activeElement } = document;
    const selection = getSelection();
    return this.element.querySelector('.entry > details[open]') !== null
      || (activeElement !== this.element && this.element.contains(activeElement))
      || (!selection.isCollapsed && this.element.contains(selection.anchorNode));
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

  /** The entry that an element of the page belongs to. */
  around(element) {
    return this.#byId.get(element.closest('.entry')?.dataset.id);
  }

  /** Inserts an event in order. Returns the new entry, or null if it is there already or older than what fits. */
  add(event, data) {
    if (this.#byId.has(event.id)) return null;
    // Urgent events overtake others in a backlog, so a new one does not always belong at the top.
    let before = this.element.firstElementChild;
    while (before && Number(before.dataset.position) > event.position) before = before.nextElementSibling;
    if (!before && this.isFull) {
      this.hasTrimmed = true;
      return null;
    }
    const entry = Entry.of(event, data, this.blank);
    this.element.insertBefore(entry.element, before);
    this.#know(entry);
    if (this.size > MAX_ENTRIES) this.#trim();
    return entry;
  }

  remove(entry) {
    // The focus moves to its neighbour instead of back to the top of the page.
    if (entry.element.contains(document.activeElement)) this.#focusBeside(entry.element);
    entry.element.remove();
    this.#forget(entry);
  }

  /** Replaces an entry that ended with a line as high as it was, so that nothing below it moves. */
  end(entry, what) {
    const trace = document.createElement('li');
    trace.className = 'trace';
    trace.tabIndex = -1;
    trace.dataset.position = entry.position;
    trace.textContent = what;
    trace.style.minHeight = `${entry.element.getBoundingClientRect().height}px`;
    const hasFocus = entry.element.contains(document.activeElement);
    entry.element.replaceWith(trace);
    this.#forget(entry);
    if (hasFocus) trace.focus({ preventScroll: true });
    const traces = this.element.querySelectorAll('.trace');
    if (traces.length > MAX_TRACES) this.#erase([...traces].find((other) => other !== trace));
    const fade = () => {
      // Not while somebody reads: it would move what is open.
      if (this.element.querySelector('.entry > details[open]') && trace.isConnected) setTimeout(fade, 1_000);
      else this.#erase(trace);
    };
    setTimeout(fade, TRACE_FOR);
  }

  clear() {
    this.entries().forEach((entry) => this.remove(entry));
    this.element.replaceChildren();
    this.hasTrimmed = false;
    this.#newest = 0;
  }

  #erase(trace) {
    if (trace === document.activeElement) this.#focusBeside(trace);
    trace.remove();
  }

  #focusBeside(element) {
    const near = element.nextElementSibling ?? element.previousElementSibling;
    (near?.querySelector('summary') ?? this.element).focus({ preventScroll: true });
  }

  #know(entry) {
    this.#byId.set(entry.id, entry);
    this.#byPosition.set(entry.position, entry);
    this.#newest = Math.max(this.#newest, entry.position);
  }

  #forget(entry) {
    this.#byId.delete(entry.id);
    this.#byPosition.delete(entry.position);
  }

  #trim() {
    this.hasTrimmed = true;
    const last = this.element.lastElementChild;
    const entry = this.#byId.get(last.dataset.id);
    if (entry) this.remove(entry);
    else last.remove();
  }
}
