// Says what was just done and offers to undo it, for some seconds; longer while the pointer or the focus is there.

const OFFERED_FOR = 10_000;

export class Undo {
  #toast;
  #text;
  #button;
  #undo = null;
  #timer = null;

  constructor(toast) {
    this.#toast = toast;
    this.#text = toast.querySelector('span');
    this.#button = toast.querySelector('button');
    this.#button.addEventListener('click', () => this.#use());
  }

  /** Shows what was done; `undo` is called when the button is pressed. */
  offer(what, undo) {
    this.#text.textContent = what;
    this.#undo = undo;
    this.#button.hidden = false;
    this.#later();
  }

  #later() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (this.#toast.matches(':hover, :focus-within')) this.#later();
      else this.#end();
    }, OFFERED_FOR);
  }

  #end() {
    clearTimeout(this.#timer);
    this.#text.textContent = '';
    this.#button.hidden = true;
    this.#undo = null;
  }

  async #use() {
    const undo = this.#undo;
    this.#undo = null;
    await undo?.();
    // Something else may have been done meanwhile.
    if (this.#undo === null) this.#end();
  }
}
