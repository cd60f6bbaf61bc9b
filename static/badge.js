// The number of unread entries, in the page's title and its icon; with a + if there may be more.

const REDRAW_EVERY = 1_000;

export class Badge {
  #title = document.title.replace(/^\(\d+\+?\) /, '');
  #icon = document.querySelector('link[rel=icon]');
  #plain = this.#icon.href;
  #drawn = null;
  #timer = null;
  #count = '0';

  /** `count`: a number, perhaps with a +. */
  show(count) {
    this.#count = count;
    const title = `${count === '0' ? '' : `(${count}) `}${this.#title}`;
    if (document.title !== title) document.title = title;
    // A browser loads the icon anew at each change, so it is not changed for each event.
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#draw();
    }, this.#drawn === null ? 0 : REDRAW_EVERY);
  }

  #draw() {
    const text = parseInt(this.#count) > 99 ? '99+' : this.#count;
    if (text === this.#drawn) return;
    this.#drawn = text;
    this.#icon.href = this.#count === '0' ? this.#plain : `data:image/svg+xml,${encodeURIComponent(picture(text))}`;
  }
}

/** The bell of icon.svg, with a number on it. */
function picture(text) {
  const width = 10 + 6 * text.length;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><path fill="#b7791f" d="M16 3a2 2 0 0 1 2 2v1c5 1 7 5 7 10 0 5 1 6 3 8H4c2-2 3-3 3-8 0-5 2-9 7-10V5a2 2 0 0 1 2-2z"/><rect x="${32 - width}" y="14" width="${width}" height="18" rx="6" fill="#b3261e"/><text x="${32 - width / 2}" y="28" font-family="sans-serif" font-size="13" font-weight="700" text-anchor="middle" fill="#fff">${text}</text></svg>`;
}
