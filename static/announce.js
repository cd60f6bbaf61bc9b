// What a screen reader announces: one sentence for many arrivals, and urgent ones at once.

const GATHER = 1_000;
const GATHER_URGENT = 5_000;

/** Announces what arrives within a second together: one arrival by its sentence, several by their number. */
export class Announcer {
  #region;
  #several;
  #count = 0;
  #first = '';

  /** `region`: an element with `aria-live`. `several(count)`: the sentence for that many arrivals. */
  constructor(region, several) {
    this.#region = region;
    this.#several = several;
  }

  arrived(sentence) {
    this.#count += 1;
    if (this.#count > 1) return;
    this.#first = sentence;
    setTimeout(() => {
      this.say(this.#count === 1 ? this.#first : this.#several(this.#count));
      this.#count = 0;
    }, GATHER);
  }

  say(sentence) {
    this.#region.textContent = sentence;
  }
}

/** Announces what is urgent: the first interrupts, and what follows within seconds is one more sentence. */
export class UrgentAnnouncer {
  #region;
  #several;
  #isBusy = false;
  #count = 0;

  /** As of an `Announcer`. */
  constructor(region, several) {
    this.#region = region;
    this.#several = several;
  }

  arrived(sentence) {
    if (this.#isBusy) return void (this.#count += 1);
    this.#isBusy = true;
    this.#region.textContent = sentence;
    setTimeout(() => {
      this.#isBusy = false;
      if (this.#count > 0) this.#region.textContent = this.#several(this.#count);
      this.#count = 0;
    }, GATHER_URGENT);
  }
}
