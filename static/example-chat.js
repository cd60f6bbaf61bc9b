// A chat room: a topic, with what was said before and who is there.

import { call, SignedOut } from './api.js';
import { connect } from './carillon.js';
import { account, Announcer, by, notice, randomName, showState, signIn, t, Tail } from './example.js';
import { Presence } from './presence.js';

/** The most messages on the page. */
const MOST = 500;
const NAMES_SHOWN = 20;
const { topic } = by('example').dataset;
const tail = new Tail(by('scroll'), by('newer'));
const announcer = new Announcer(by('say'), (count) => t('chat.new_messages', { count }));
const presence = new Presence();
/** The user's own messages that the stream has not yet brought, in the order they were written. */
const pending = new Set();
const shown = new Map();
let isPast = true;

const carillon = connect({ account, topics: [topic], types: ['message'], history: 50, presence: true });

carillon.on('state', ({ state, since }) => showState(state, since));

carillon.on('event', (event) => {
  // The stream also brings what is for everyone and for this user.
  if (event.topic !== topic || shown.has(event.id)) return;
  const { from, text } = event.data ?? {};
  if (typeof from !== 'string' || typeof text !== 'string') return;
  // The stream may be faster than the answer to the request, which has the id.
  const own = [...pending].find((one) => one.id === event.id || (!one.id && from === account && text === one.text));
  if (own) return arrived(own, event);
  tail.add(1, () => insert(messageOf(from, text, event), event));
  if (!isPast) announcer.arrived(`${from}: ${text}`);
});

carillon.on('history', () => {
  isPast = false;
  by('empty').hidden = by('messages').childElementCount > 0;
  tail.show();
});

carillon.on('retract', ({ position }) => {
  for (const [id, item] of shown) if (Number(item.dataset.position) === position) forget(id);
});

for (const name of ['presence', 'join', 'leave']) {
  carillon.on(name, (frame) => {
    presence.apply(name, frame);
    const { user } = frame;
    if (user) by('quiet').textContent = name === 'join' ? t('chat.joined', { user }) : t('chat.left', { user });
    const [{ users, count } = { users: [], count: 0 }] = presence.all();
    by('count').textContent = count;
    by('people').textContent = users.sort().slice(0, NAMES_SHOWN).join(', ') + (count > NAMES_SHOWN ? ', …' : '');
  });
}

// Sending

by('write').addEventListener('submit', (submitted) => {
  submitted.preventDefault();
  const text = by('text').value.trim();
  if (!text) return;
  by('text').value = '';
  // With the same key, trying again never publishes it twice.
  const message = { text, key: randomName(), id: null, item: messageOf(account, text) };
  pending.add(message);
  message.item.querySelector('.retry').addEventListener('click', () => send(message));
  by('messages').append(message.item);
  tail.show();
  send(message);
});

async function send(message) {
  mark(message, t('chat.sending'), false);
  try {
    const event = { type: 'message', to: { topic }, data: { from: account, text: message.text } };
    const { id } = await call('/events', { method: 'POST', body: event, key: message.key });
    message.id ??= id;
    // Another tab of this user said the same at the same time, and this one came as that one's.
    if (shown.has(id) && pending.delete(message)) message.item.remove();
    notice('');
  } catch (error) {
    if (error instanceof SignedOut) return signIn();
    if (!pending.has(message)) return;
    mark(message, t('chat.not_sent'), true);
    notice(error.status ? t('chat.refused', { message: error.message }) : t('server.unreachable'));
  }
}

function mark({ item }, text, mayRetry) {
  item.querySelector('.sending').textContent = text;
  item.querySelector('.sending').hidden = !text;
  item.querySelector('.retry').hidden = !mayRetry;
}

function arrived(message, event) {
  pending.delete(message);
  message.id = event.id;
  mark(message, '', false);
  date(message.item, event);
  tail.add(0, () => insert(message.item, event));
}

// Only now that a script takes the form: without one the browser would load the page anew.
by('send').disabled = false;

// Showing. What others wrote is only ever text.

function messageOf(from, text, event) {
  const item = by('blank').content.firstElementChild.cloneNode(true);
  item.querySelector('.from').textContent = from;
  item.querySelector('.text').textContent = text;
  if (from === account) item.classList.add('is-own');
  if (event) date(item, event);
  return item;
}

function date(item, { created_at: at }) {
  item.querySelector('time').dateTime = at;
  item.querySelector('time').textContent = new Date(at).toLocaleTimeString([], { timeStyle: 'short' });
}

/** In the order of the log, which is the same for everybody; what is still being sent stays below. */
function insert(item, { id, position }) {
  item.dataset.position = position;
  shown.set(id, item);
  const [first] = pending;
  by('messages').insertBefore(item, first?.item ?? null);
  by('empty').hidden = true;
  if (shown.size > MOST) forget(shown.keys().next().value);
}

function forget(id) {
  shown.get(id).remove();
  shown.delete(id);
}
