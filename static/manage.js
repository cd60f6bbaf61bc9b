// What the account and cluster pages share: dialogs, forms sent by script, lists whose rows can be ended.

import { call, SignedOut } from './api.js';
import { by, signIn } from './page.js';
import { t } from './texts.js';

/** How long a result is shown, in milliseconds. */
const SHOWN_FOR = 10_000;
let hiding = null;

/** Shows the result of an action; a screen reader reads it out. */
export function say(text, isBad = false) {
  by('result').textContent = text;
  by('result').classList.toggle('is-bad', isBad);
  clearTimeout(hiding);
  hiding = setTimeout(() => (by('result').textContent = ''), SHOWN_FOR);
}

function explain(error) {
  if (!error.status) return t('server.unreachable.again');
  if (error.status === 404) return t('server.gone');
  if (error.status === 429) return t('server.too_many');
  return t('server.message', { message: `${error.message[0].toUpperCase()}${error.message.slice(1)}` });
}

/** Does something that needs the server while `button` waits; true if it worked. */
export async function attempt(button, work, failed = (error) => say(explain(error), true)) {
  button.disabled = true;
  try {
    await work();
    return true;
  } catch (error) {
    if (error instanceof SignedOut) signIn();
    else failed(error);
    return false;
  } finally {
    button.disabled = false;
  }
}

/** Sends a form by script: `send` gets its fields and `showError(field, text)`. `names` are the fields' names for errors
 *  of the server. */
export function onSubmit(form, names, send) {
  const error = form.querySelector('.error');
  const showError = (field, text) => {
    error.textContent = text;
    const input = form.elements[field];
    if (!(input instanceof HTMLElement)) return;
    input.setAttribute('aria-invalid', 'true');
    input.focus();
  };
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    error.textContent = '';
    form.querySelectorAll('[aria-invalid]').forEach((input) => input.removeAttribute('aria-invalid'));
    await attempt(form.querySelector('button.primary'), () => send(form.elements, showError), (refused) => {
      const { field } = refused;
      const message = refused.message.replace(`${field}: `, '');
      showError(field, names[field] ? t('server.field', { field: names[field], message }) : explain(refused));
    });
  });
}

/** Asks whether to go on; resolves to the answer. Escape means no. */
export function confirmed(question, verb) {
  const dialog = by('confirm');
  by('question').textContent = question;
  by('yes').textContent = verb;
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((answer) => {
    dialog.addEventListener('close', () => answer(dialog.returnValue === 'yes'), { once: true });
  });
}

/** Shows a secret that is shown only now. */
export function showSecret(title, secret) {
  by('secret-title').textContent = title;
  by('secret-text').textContent = secret;
  by('copied').textContent = '';
  by('secret').showModal();
}

async function copy() {
  try {
    // There is a clipboard only with https, or on localhost.
    await navigator.clipboard.writeText(by('secret-text').textContent);
    by('copied').textContent = t('secret.copied');
  } catch {
    getSelection().selectAllChildren(by('secret-text'));
    by('copied').textContent = t('secret.selected');
  }
}

by('copy').addEventListener('click', copy);
by('secret').addEventListener('close', () => {
  by('secret-text').textContent = '';
});

/** Shows times in the reader's time zone and form. */
export function localTimes(root) {
  for (const time of root.querySelectorAll('time')) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    time.textContent = at.toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' });
    time.title = time.dateTime;
  }
}

/** A row like the others of a list, from its blank: elements named by `data-of` get these texts. */
export function newRow(blank, id, texts) {
  const row = blank.content.firstElementChild.cloneNode(true);
  row.dataset.id = id;
  for (const part of row.querySelectorAll('[data-of]')) {
    const text = texts[part.dataset.of] ?? '';
    if (part.matches('time')) part.dateTime = text;
    part.textContent = text;
    if (!text) (part.closest('[data-if]') ?? part).hidden = true;
  }
  row.dataset.user = texts.user ?? '';
  localTimes(row);
  return row;
}

/** Removes a row; the focus moves to its neighbour. */
export function removeRow(row) {
  const next = (row.nextElementSibling ?? row.previousElementSibling)?.querySelector('button');
  const heading = row.closest('section').querySelector('h2');
  row.remove();
  (next ?? heading).focus();
}

/** The `end` buttons of a list ask `question(row)` first, then delete `path(row)` and call `ended(row)`. */
export function onEnd(list, question, path, ended) {
  list.addEventListener('click', async ({ target }) => {
    const button = target.closest('button.end');
    if (!button) return;
    const row = button.closest('li');
    if (!(await confirmed(question(row), button.textContent))) return;
    const isDone = await attempt(button, () => call(path(row), { method: 'DELETE' }));
    if (isDone) ended(row);
  });
}

localTimes(document);
