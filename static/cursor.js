// A cursor: how much of the log was seen, as the `id` of every frame gives it. Only scripts of this folder
// parse it, which the nodes serve that write it (src/event/cursor.rs); to everyone else it is opaque.

/** As many as a cursor of the server may name. Repeats beyond that are found by the events' ids. */
const MAX_AHEAD = 32;

export class Cursor {
  constructor(epoch, position, ahead = []) {
    this.epoch = epoch;
    /** Everything up to here was seen, */
    this.position = position;
    /** and besides it these, which overtook others in a backlog. */
    this.ahead = [...new Set(ahead)].filter((one) => one > position).sort((a, b) => a - b).slice(0, MAX_AHEAD);
  }

  /** Parses `epoch-position+ahead+…`; null if `text` is not a cursor. */
  static of(text) {
    const parts = /^([a-z0-9]{1,16})-(\d{1,19})((?:\+\d{1,19})*)$/.exec(text ?? '');
    return parts && new Cursor(parts[1], Number(parts[2]), parts[3].split('+').slice(1).map(Number));
  }

  hasSeen(position) {
    return position <= this.position || this.ahead.includes(position);
  }

  /** Whether this cursor has seen all that `other` has. */
  covers(other) {
    return other.position <= this.position && other.ahead.every((one) => this.hasSeen(one));
  }

  /** What was seen at either of the two. With another epoch, `other` is the newer one and is returned. */
  join(other) {
    if (other.epoch !== this.epoch) return other;
    return new Cursor(this.epoch, Math.max(this.position, other.position), [...this.ahead, ...other.ahead]);
  }

  /** What was seen at both of them. */
  meet(other) {
    const both = [...this.ahead, ...other.ahead].filter((one) => this.hasSeen(one) && other.hasSeen(one));
    return new Cursor(this.epoch, Math.min(this.position, other.position), both);
  }

  toString() {
    return [`${this.epoch}-${this.position}`, ...this.ahead].join('+');
  }
}
