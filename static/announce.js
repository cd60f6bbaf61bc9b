// What a screen reader says: one sentence for many arrivals, and urgent ones at once.

const GATHER = 1_000;

export class Announcer {
  #polite = document.getElementById('say-polite');
  #now = document.getElementById('say-now');
  #waiting = [];

  arrived(event) {
    if (event.priority === 'high' || event.priority === 'urgent') {
      this.#now.textContent = `${event.priority}: ${event.type}`;
      return;
    }
    this.#waiting.push(event.type);
    if (this.#waiting.length === 1) setTimeout(() => this.#tell(), GATHER);
    // Only their number is told when there are several.
    if (this.#waiting.length > 1) this.#waiting[0] = null;
  }

  say(sentence) {
    this.#polite.textContent = sentence;
  }

  #tell() {
    const [first] = this.#waiting;
    this.say(first ? `New: ${first}` : `${this.#waiting.length} new entries`);
    this.#waiting = [];
  }
}
