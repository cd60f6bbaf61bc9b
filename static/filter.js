// The filter of the inbox, as the page's address gives it.

const PRIORITIES = ['low', 'normal', 'high', 'urgent'];
const NAMES = ['type', 'min_priority', 'unread', 'topic', 'q'];

/** Letters A to Z without their case, as the server compares. */
const plain = (text) => text.replace(/[A-Z]/g, (letter) => letter.toLowerCase());

export class Filter {
  constructor(search) {
    const address = new URLSearchParams(search);
    const given = (name) => address.getAll(name).filter(Boolean);
    this.types = given('type');
    this.topics = given('topic');
    this.least = PRIORITIES.indexOf(given('min_priority')[0] ?? 'low');
    this.unreadOnly = address.get('unread') === 'true';
    this.text = plain(given('q')[0] ?? '');
    this.query = new URLSearchParams([...address].filter(([name, value]) => NAMES.includes(name) && value));
  }

  /** The address of a page of the list; `after` as the page before said. */
  page(after) {
    const query = new URLSearchParams(this.query);
    if (after) query.set('after', after);
    return `/inbox?${query}`;
  }

  /** The address of a page of one that holds this entry, if the inbox still has it. */
  at({ priority, position }) {
    return `/inbox?${this.#listening([['limit', 1], ['after', `${priority}-${position + 1}`]])}`;
  }

  /** The address of the counts of all that the page listens to. */
  get counts() {
    return `/inbox/counts?${this.#listening([])}`;
  }

  #listening(more) {
    return new URLSearchParams([...this.topics.map((topic) => ['topic', topic]), ...more]);
  }

  /** Whether an event that arrives belongs to what is shown; `data` as it was written. */
  admits(event, data) {
    return (this.topics.length === 0 || event.to === 'topic')
      && (this.types.length === 0 || this.types.includes(event.type))
      && PRIORITIES.indexOf(event.priority) >= this.least
      && (plain(event.type).includes(this.text) || plain(data).includes(this.text));
  }
}

/** Leaves empty fields out of the address that the form makes. */
export function tidy(form) {
  form.addEventListener('formdata', ({ formData }) => {
    for (const [name, value] of [...formData]) if (!value) formData.delete(name);
  });
}
