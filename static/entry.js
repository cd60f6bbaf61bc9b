// One entry of the list. What publishers wrote goes through textContent, never through markup.

const short = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });
const long = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'long' });

/** An entry on the page: what the scripts need to know of it, and its element. */
export class Entry {
  constructor(element) {
    const { id, position, priority, expires } = element.dataset;
    this.element = element;
    this.id = id;
    this.position = Number(position);
    this.priority = priority;
    this.expiresAt = expires ? Date.parse(expires) : null;
    element.querySelectorAll('time').forEach(showLocally);
  }

  /** From an event of the stream or an entry of the API. */
  static of(event, blank) {
    const element = blank.content.firstElementChild.cloneNode(true);
    const part = (name) => element.querySelector(name);
    element.dataset.id = event.id;
    element.dataset.position = event.position;
    element.dataset.priority = event.priority;
    part('.priority').textContent = event.priority;
    part('.type').textContent = event.type;
    part('.to').textContent = event.to === 'topic' ? event.topic : `to ${event.to}`;
    part('.created').dateTime = event.created_at;
    part('.data').textContent = JSON.stringify(event.data, null, 2);
    part('.data').hidden = event.data === null;
    part('.expiry').hidden = !event.expires_at;
    if (event.expires_at) {
      element.dataset.expires = event.expires_at;
      part('.expiry time').dateTime = event.expires_at;
    }
    const entry = new Entry(element);
    entry.isRead = Boolean(event.read_at);
    return entry;
  }

  get isRead() {
    return this.element.classList.contains('is-read');
  }

  set isRead(read) {
    this.element.classList.toggle('is-read', read);
    this.element.querySelector('.toggle-read').textContent = read ? 'Mark as unread' : 'Mark as read';
  }

  hasExpired(now) {
    return this.expiresAt !== null && this.expiresAt <= now;
  }
}

function showLocally(time) {
  const date = new Date(time.dateTime);
  if (Number.isNaN(date.getTime())) return;
  time.textContent = short.format(date);
  time.title = long.format(date);
}
