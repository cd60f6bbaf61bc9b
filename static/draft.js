// The event that the form on the publish page describes, as the API takes it, and what is wrong with it.

import { t } from './texts.js';

/** The same bounds as the server's, for errors shown while somebody types. */
const TYPE = /^[A-Za-z0-9._-]{1,64}$/;
const MAX_NAME_BYTES = 255;
const isName = (text) => !/\p{Cc}/u.test(text) && text !== '' && new TextEncoder().encode(text).length <= MAX_NAME_BYTES;
const isTopic = (text) => isName(text) && text.split('/').every((segment) => !['', '.', '..'].includes(segment));
const MAX_USERS = 1_000;
const MAX_SECONDS = 10 * 366 * 86_400;

/** The event as JSON text, its type, and a sentence for each field that is wrong. The JSON is for showing, even then. */
export function draft(form) {
  const errors = new Map();
  const given = (name) => form.elements[name].value;
  const need = (name, isRight, sentence) => isRight || errors.set(name, sentence);
  const members = [];
  const add = (name, json) => members.push(`${JSON.stringify(name)}:${json}`);

  const kind = given('kind');
  const type = kind || given('type').trim();
  need('type', TYPE.test(type), t('publish.error.type'));
  need('type', !type.startsWith('carillon.'), t('publish.error.type_reserved'));
  add('type', JSON.stringify(type));
  add('to', audience(given('to'), given, need));
  if (given('priority') !== 'normal') add('priority', JSON.stringify(given('priority')));
  add('data', data(kind, given, need));
  for (const name of ['expires_in', 'keep_after_read']) {
    const seconds = given(name) === 'after' ? Number(given(`${name}_amount`)) * Number(given(`${name}_unit`)) : given(name);
    if (seconds === '') continue;
    const isRight = given(name) !== 'after' || (seconds >= 1 && seconds <= MAX_SECONDS);
    need(name, isRight, t('publish.error.time'));
    add(name, Number(seconds));
  }
  return { json: `{${members.join(',')}}`, type, errors };
}

function audience(to, given, need) {
  if (to === 'everyone') return '"everyone"';
  if (to === 'topic') {
    const topic = given('topic').trim();
    need('topic', isTopic(topic), t('publish.error.topic'));
    return JSON.stringify({ topic });
  }
  const users = given('users').split(',').map((name) => name.trim()).filter(Boolean);
  const wrong = users.find((name) => !isName(name));
  need('users', users.length > 0, t('publish.error.no_user'));
  need('users', users.length <= MAX_USERS, t('publish.error.users', { most: MAX_USERS }));
  need('users', wrong === undefined, t('publish.error.user', { name: wrong }));
  return JSON.stringify(users.length === 1 ? { user: users[0] } : { users });
}

/** Of the ready-made types: `notification` and `alert` have `title`, `message` and `level`, `system` the first two, and
 *  `message` has `text`. */
function data(kind, given, need) {
  const [title, message] = [given('title').trim(), given('message').trim()];
  if (kind === 'message') {
    need('message', message, t('publish.error.no_text'));
    return JSON.stringify({ text: message });
  }
  if (kind) {
    need('title', title, t('publish.error.no_title'));
    const level = kind === 'system' ? undefined : given('level');
    return JSON.stringify({ title, message: message || undefined, level });
  }
  const json = given('data').trim();
  try {
    if (json) JSON.parse(json);
  } catch (error) {
    need('data', false, t('publish.error.json', { message: error.message }));
  }
  // As it was typed, with every digit.
  return json || 'null';
}

/** A line for a shell that publishes this. The token stays in its variable. */
export function curl(origin, key, json) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  return `curl -sS ${quoted(`${origin}/api/v1/events`)} -H "Authorization: Bearer $CARILLON_TOKEN" -H ${quoted(`Idempotency-Key: ${key}`)} -d ${quoted(json.replace(/\s*\n\s*/g, ' '))}`;
}
