// Entries that arrive: shown at once, a batch for each frame, unless that would move what is being read. Then they wait
// behind a button with their number.

import { t } from './texts.js';

/** The most that wait. Beyond it the list is read anew when they are shown. */
const MAX_WAITING = 200;
/** Where no frames are drawn, such as in a tab behind others. */
const WITHOUT_FRAMES = 500;

const bar = document.querySelector('.bar');

/** Does something before the next frame, or soon where there is none. */
export function nextFrame(work) {
  let isDone = false;
  const once = () => {
    if (isDone) return;
    isDone = true;
    clearTimeout(timer);
    work();
  };
  const timer = setTimeout(once, WITHOUT_FRAMES);
  requestAnimationFrame(once);
}

export class Arrivals {
  #list;
  #button;
  #on;
  #waiting = new Map();
  #top;
  #isScheduled = false;
  /** How many more there were than can wait. */
  #lost = 0;

  /** `on`: `shown(entries)`, and `tooMany()` when the list has to be read anew instead. */
  constructor(list, top, button, on) {
    this.#list = list;
    this.#button = button;
    this.#on = on;
    this.#top = top;
    // Only a reason to look again: what it reports may have changed since.
    new IntersectionObserver(() => this.settle(), { rootMargin: `-${bar.offsetHeight}px 0px 0px` }).observe(top);
    button.addEventListener('click', () => this.#showAll());
    document.addEventListener('selectionchange', () => this.#waiting.size > 0 && this.settle());
    list.element.addEventListener('focusout', () => this.settle());
  }

  has(event) {
    return this.#waiting.has(event.position);
  }

  /** An event to be shown, and its data as it was written. */
  add(event, data) {
    this.#waiting.set(event.position, { event, data });
    if (this.#waiting.size > MAX_WAITING) {
      this.#lost += 1;
      this.#waiting.delete(this.#waiting.keys().next().value);
    }
    this.settle();
  }

  /** The event that waits at this position, if one does. */
  at(position) {
    return this.#waiting.get(position)?.event;
  }

  events() {
    return [...this.#waiting.values()].map(({ event }) => event);
  }

  /** Removes an event that waits and has ended. */
  drop(position) {
    this.#waiting.delete(position);
    this.settle();
  }

  clear() {
    this.#waiting.clear();
    this.#lost = 0;
    this.#updateButton();
  }

  /** Something changed: shows what waits, if that moves nothing that is being read. */
  settle() {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    nextFrame(() => {
      this.#isScheduled = false;
      if (this.#count > 0 && this.#isTopInView() && !this.#list.isBeingRead) this.#flush();
      this.#updateButton();
    });
  }

  get #count() {
    return this.#waiting.size + this.#lost;
  }

  /** Whether the list begins below the bar, which lies above the page. */
  #isTopInView() {
    return this.#top.getBoundingClientRect().bottom >= bar.getBoundingClientRect().bottom;
  }

  #flush() {
    if (this.#lost > 0) {
      this.clear();
      this.#on.tooMany();
      return;
    }
    if (this.#waiting.size === 0) return;
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    this.#on.shown(waiting.map(({ event, data }) => this.#list.add(event, data)).filter(Boolean));
  }

  #showAll() {
    this.#flush();
    this.#updateButton();
    scrollTo({ top: 0 });
    this.#list.element.focus({ preventScroll: true });
  }

  #updateButton() {
    const count = this.#count;
    this.#button.hidden = count === 0;
    const text = t('inbox.new', { count });
    if (count > 0 && this.#button.textContent !== text) this.#button.textContent = text;
  }
}
