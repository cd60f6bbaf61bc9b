// What the examples share, so that each shows only its own part.

export { Announcer } from './announce.js';
export { account, by, notice, signIn } from './page.js';
export { t } from './texts.js';
import { by, notice, showState as showInBar, signIn } from './page.js';
import { t } from './texts.js';

/** Shows a stream's state in the bar, and what follows from a final one. */
export function showState(state, since) {
  showInBar(state, since);
  if (state === 'signed out') signIn();
  if (state === 'refused') notice(t('example.not_permitted'));
}

/** A name that is unique. (There is `crypto.randomUUID` only with https, or on localhost.) */
export function randomName() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** A list in a box that is scrolled to its end, unless the reader has scrolled up: then it counts what is new. */
export class Tail {
  #unseen = 0;

  constructor(box, button) {
    this.box = box;
    this.button = button;
    box.addEventListener('scroll', () => this.isAtEnd && this.show());
    button.addEventListener('click', () => this.show());
  }

  get isAtEnd() {
    return this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < 40;
  }

  /** Changes the list by `work`, which adds `count` at its end. */
  add(count, work) {
    const follows = this.isAtEnd;
    work();
    if (follows) return this.show();
    this.#unseen += count;
    this.button.textContent = t('example.new', { count: this.#unseen });
    this.button.hidden = this.#unseen === 0;
  }

  show() {
    this.#unseen = 0;
    this.button.hidden = true;
    this.box.scrollTop = this.box.scrollHeight;
  }
}

// On a wide screen there is room for the source beside the page.
const wide = matchMedia('(min-width: 70rem)');
const unfold = () => (by('source').open = wide.matches);
wide.addEventListener('change', unfold);
unfold();
