// What a screen reader says: one sentence for many arrivals, and urgent ones at once.

const GATHER = 1_000;
const GATHER_URGENT = 5_000;

export class Announcer {
  #polite = document.getElementById('say-polite');
  #now = document.getElementById('say-now');
  #waiting = 0;
  #first = '';
  #isBusy = false;
  #urgent = 0;

  arrived({ priority }, headline) {
    if (priority === 'high' || priority === 'urgent') return this.#arrivedNow(`${priority}: ${headline}`);
    this.#waiting += 1;
    this.#first = headline;
    if (this.#waiting > 1) return;
    setTimeout(() => {
      this.say(this.#waiting === 1 ? `New: ${this.#first}` : `${this.#waiting} new entries`);
      this.#waiting = 0;
    }, GATHER);
  }

  say(sentence) {
    this.#polite.textContent = sentence;
  }

  /** The first interrupts; those on its heels are one sentence later on. */
  #arrivedNow(sentence) {
    if (this.#isBusy) return void (this.#urgent += 1);
    this.#isBusy = true;
    this.#now.textContent = sentence;
    setTimeout(() => {
      this.#isBusy = false;
      if (this.#urgent > 0) this.#now.textContent = `${this.#urgent} more of high priority`;
      this.#urgent = 0;
    }, GATHER_URGENT);
  }
}
