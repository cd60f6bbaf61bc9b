// One entry of the list. What publishers wrote is set as text, never as markup.

import { pretty } from './json.js';
import { summaryOf } from './summary.js';
import { t } from './texts.js';

const TO = { you: t('inbox.entry.to_you'), everyone: t('inbox.entry.to_everyone') };

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'short' });
const short = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });
const long = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'long' });

/** An entry on the page: its element, and what the scripts need to know of the event. */
export class Entry {
  /** Whether the server no longer lists it: it goes when it is closed. */
  hasLeft = false;
  #data;

  /** `data`: the publisher's JSON as it was written. */
  constructor(element, data) {
    const { id, position, priority, type, expires } = element.dataset;
    this.element = element;
    this.id = id;
    this.position = Number(position);
    this.priority = priority;
    this.type = type;
    this.expiresAt = expires ? Date.parse(expires) : null;
    this.#data = data;
    element.querySelectorAll('time').forEach(showLocally);
  }

  /** From the server's markup. */
  static in(element) {
    const data = element.querySelector('.data');
    const entry = new Entry(element, data.textContent);
    if (!entry.isOpen) data.textContent = '';
    return entry;
  }

  /** From an event of the stream or an entry of the API, and its data as it was written. */
  static of(event, data, blank) {
    const element = blank.content.firstElementChild.cloneNode(true);
    const part = (name) => element.querySelector(name);
    const { headline, text, level } = summaryOf(event.type, data);
    element.dataset.id = event.id;
    element.dataset.position = event.position;
    element.dataset.priority = event.priority;
    element.dataset.type = event.type;
    part('.headline').textContent = headline;
    part('.text').textContent = text;
    part('.text').hidden = !text;
    part('.priority').textContent = event.priority;
    part('.level').textContent = level;
    part('.level').hidden = !level;
    part('.type').textContent = event.type;
    part('.type').hidden = headline === event.type;
    part('.to').textContent = event.to === 'topic' ? event.topic : TO[event.to];
    part('.created').dateTime = event.created_at;
    part('.expiry').hidden = !event.expires_at;
    if (event.expires_at) {
      element.dataset.expires = event.expires_at;
      part('.expiry time').dateTime = event.expires_at;
    }
    const entry = new Entry(element, data);
    entry.isRead = Boolean(event.read_at);
    return entry;
  }

  get isOpen() {
    return this.element.querySelector('details').open;
  }

  get headline() {
    return this.element.querySelector('.headline').textContent;
  }

  get isRead() {
    return this.element.classList.contains('is-read');
  }

  set isRead(read) {
    this.element.classList.toggle('is-read', read);
    this.element.querySelector('.state').textContent = read ? '' : t('inbox.entry.unread');
    const button = this.element.querySelector('.toggle-read');
    button.textContent = read ? t('inbox.entry.mark_unread') : t('inbox.entry.mark_read');
  }

  /** All of the data is on the page only while somebody looks at it. */
  showData() {
    this.element.querySelector('.data').textContent = this.isOpen ? pretty(this.#data) : '';
  }

  focus() {
    this.element.querySelector('summary').focus();
  }

  hasExpired(now) {
    return this.expiresAt !== null && this.expiresAt <= now;
  }
}

function showLocally(time) {
  const date = new Date(time.dateTime);
  if (Number.isNaN(date.getTime())) return;
  const isToday = date.toDateString() === new Date().toDateString();
  time.textContent = (isToday ? clock : short).format(date);
  time.title = long.format(date);
}
