// The summary of an entry, taken from its data. src/http/pages/summary.rs has the same rule for rendering on the server.

import { members } from './json.js';

const MAX_SUMMARY = 240;

/** Of an event of this type with this data as it is written: `headline`, `text` and `level`, empty where there is none. */
export function summaryOf(type, data) {
  const all = members(data);
  const line = (name) => oneLine(textOf(all.get(name)));
  const title = line('title');
  const body = line('message') || line('text');
  if (title || body) return { headline: title || body, text: title && body, level: line('level') };
  return { headline: type, text: data === 'null' ? '' : oneLine(textOf(data) || data), level: '' };
}

function textOf(json) {
  const text = json?.startsWith('"') ? JSON.parse(json) : '';
  // Half a character is none.
  return /\p{Surrogate}/u.test(text) ? '' : text;
}

function oneLine(text) {
  // No more than this is looked at, however long it is and whatever it is made of.
  const start = [...text.slice(0, 8 * MAX_SUMMARY)].slice(0, 4 * MAX_SUMMARY).join('');
  const words = start.split(/[\s\p{Cc}]+/u).filter(Boolean).join(' ');
  const letters = [...words];
  if (letters.length <= MAX_SUMMARY && start.length === text.length) return words;
  return words && `${letters.slice(0, MAX_SUMMARY).join('')}…`;
}
