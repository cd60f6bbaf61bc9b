// A place in the log, as the `id` of every frame tells it: what has been seen of it. Only this project's own scripts
// look into it, which are served by the nodes that write it (src/event/cursor.rs); to everyone else it is opaque.

/** As many as a cursor of the server may name; the id of an event finds what is forgotten beyond. */
const MAX_AHEAD = 32;

export class Place {
  constructor(epoch, position, ahead = []) {
    this.epoch = epoch;
    /** Everything up to here was seen, */
    this.position = position;
    /** and besides it these, which overtook others in a backlog. */
    this.ahead = [...new Set(ahead)].filter((one) => one > position).sort((a, b) => a - b).slice(0, MAX_AHEAD);
  }

  /** From `epoch-position+ahead+…`; null if it is not one. */
  static of(text) {
    const parts = /^([a-z0-9]{1,16})-(\d{1,19})((?:\+\d{1,19})*)$/.exec(text ?? '');
    return parts && new Place(parts[1], Number(parts[2]), parts[3].split('+').slice(1).map(Number));
  }

  hasSeen(position) {
    return position <= this.position || this.ahead.includes(position);
  }

  /** Whether all that `other` has seen was seen here, too. */
  covers(other) {
    return other.position <= this.position && other.ahead.every((one) => this.hasSeen(one));
  }

  /** What was seen at either. Of different histories, the other's is the newer. */
  join(other) {
    if (other.epoch !== this.epoch) return other;
    return new Place(this.epoch, Math.max(this.position, other.position), [...this.ahead, ...other.ahead]);
  }

  /** What was seen at both. */
  meet(other) {
    const both = [...this.ahead, ...other.ahead].filter((one) => this.hasSeen(one) && other.hasSeen(one));
    return new Place(this.epoch, Math.min(this.position, other.position), both);
  }

  toString() {
    return [`${this.epoch}-${this.position}`, ...this.ahead].join('+');
  }
}
