// Who listens to each topic: the users of the last `presence` frame, and who joined and left since.

/** The most names kept of one topic; all are counted. */
const MAX_NAMES = 1_000;

export class Presence {
  #topics = new Map();

  /** A frame named `presence`, `join` or `leave`. */
  apply(name, { topic, user, users, count }) {
    if (name === 'presence') {
      this.#topics.set(topic, { users: new Set(users.slice(0, MAX_NAMES)), count });
      return;
    }
    const there = this.#topics.get(topic);
    if (!there || (name === 'join' && there.users.has(user))) return;
    // Beyond the limit users have no name here, but may leave, too.
    const change = name === 'join' ? 1 : -1;
    if (name === 'leave') there.users.delete(user);
    else if (there.users.size < MAX_NAMES) there.users.add(user);
    there.count = Math.max(there.users.size, there.count + change);
  }

  /** For each topic what a `presence` frame would hold now. */
  all() {
    return [...this.#topics].map(([topic, { users, count }]) => ({ topic, users: [...users], count }));
  }
}
