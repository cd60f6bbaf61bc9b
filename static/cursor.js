// A cursor: how much of the log was seen, as the `id` of every frame gives it. Only scripts of this folder
// parse it, which the nodes serve that write it (src/event/cursor.rs); to everyone else it is opaque.

/** As many as a cursor of the server may name. Repeats beyond that are found by the events' ids. */
const MAX_AHEAD = 32;

export class Cursor {
  constructor(epoch, position, ahead = [], digests = {}) {
    this.epoch = epoch;
    /** Everything up to here was seen, */
    this.position = position;
    /** and besides it these, which overtook others in a backlog. */
    this.ahead = [...new Set(ahead)].filter((one) => one > position).sort((a, b) => a - b).slice(0, MAX_AHEAD);
    /** Of the event at the last of these, by which a node knows that its log is the one that was seen. */
    this.digest = digests[this.furthest] ?? null;
  }

  /** Parses `epoch-position+ahead+….digest`; null if `text` is not a cursor. */
  static of(text) {
    const parts = /^([a-z0-9]{1,16})-(\d{1,19})((?:\+\d{1,19})*)(?:\.([0-9a-f]{8}))?$/.exec(text ?? '');
    if (!parts) return null;
    const [position, ...ahead] = [parts[2], ...parts[3].split('+').slice(1)].map(Number);
    return new Cursor(parts[1], position, ahead, { [ahead.at(-1) ?? position]: parts[4] });
  }

  /** The last position that it names. */
  get furthest() {
    return this.ahead.at(-1) ?? this.position;
  }

  /** What is known of the events that this or `other` name last, by their positions. */
  #digests(other) {
    return { [other.furthest]: other.digest, ...(this.digest && { [this.furthest]: this.digest }) };
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
    const [position, ahead] = [Math.max(this.position, other.position), [...this.ahead, ...other.ahead]];
    return new Cursor(this.epoch, position, ahead, this.#digests(other));
  }

  /** What was seen at both of them. */
  meet(other) {
    const both = [...this.ahead, ...other.ahead].filter((one) => this.hasSeen(one) && other.hasSeen(one));
    return new Cursor(this.epoch, Math.min(this.position, other.position), both, this.#digests(other));
  }

  toString() {
    const positions = [`${this.epoch}-${this.position}`, ...this.ahead].join('+');
    return this.digest ? `${positions}.${this.digest}` : positions;
  }
}
