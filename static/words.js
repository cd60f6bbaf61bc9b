// What an entry says at a glance, taken from its data. src/http/pages/words.rs has the same rule for what the server
// renders.

import { members } from './json.js';

const MAX_GLANCE = 240;

/** Of an event of this type with this data as it is written: `headline`, `text` and `level`, empty where there is none. */
export function wordsOf(type, data) {
  const all = members(data);
  const word = (name) => glance(textOf(all.get(name)));
  const title = word('title');
  const body = word('message') || word('text');
  if (title || body) return { headline: title || body, text: title && body, level: word('level') };
  return { headline: type, text: data === 'null' ? '' : glance(textOf(data) || data), level: '' };
}

function textOf(json) {
  const text = json?.startsWith('"') ? JSON.parse(json) : '';
  // Half a character is none.
  return /\p{Surrogate}/u.test(text) ? '' : text;
}

function glance(text) {
  // No more than this is looked at, however long it is and whatever it is made of.
  const start = [...text.slice(0, 8 * MAX_GLANCE)].slice(0, 4 * MAX_GLANCE).join('');
  const line = start.split(/[\s\p{Cc}]+/u).filter(Boolean).join(' ');
  const letters = [...line];
  if (letters.length <= MAX_GLANCE && start.length === text.length) return line;
  return line && `${letters.slice(0, MAX_GLANCE).join('')}…`;
}
