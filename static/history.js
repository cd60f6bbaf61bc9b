// The events before a page was opened, read from the inbox. A stream then goes on from exactly there, also one that is
// shared by other tabs and began long ago.

import { ask, FIRST_PAUSE, LONGEST_PAUSE, nearly } from './source.js';

export class History {
  #url;
  #limit;
  #on;
  #failures = 0;
  #timer = null;
  #attempt = null;
  #again = () => this.#read();

  /** Of the stream at `url`. `on`: `history(entries, cursor, isComplete)` and `state`, `ended` as of a `Source`. */
  constructor(url, limit, on) {
    this.#url = url;
    this.#limit = limit;
    this.#on = on;
  }

  start() {
    addEventListener('online', this.#again);
    this.#read();
  }

  stop() {
    this.#attempt = null;
    removeEventListener('online', this.#again);
    clearTimeout(this.#timer);
  }

  async #read() {
    clearTimeout(this.#timer);
    const attempt = (this.#attempt = {});
    const { status, body, ended } = await ask(this.#url, this.#limit);
    // Meanwhile stopped, or begun again.
    if (attempt !== this.#attempt) return;
    if (ended) return this.#on.ended(ended);
    if (status === 200 && body) return this.#on.history(body.entries, body.cursor, body.next === null);
    if (this.#failures === 0) this.#on.state('offline', new Date());
    this.#failures += 1;
    this.#timer = setTimeout(() => this.#read(), nearly(Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** this.#failures)));
  }
}
