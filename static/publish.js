// The publish page: shows what would be sent while it is written, and sends it once.

import { call, SignedOut } from './api.js';
import { curl, draft } from './draft.js';
import { pretty } from './json.js';
import { by, signIn } from './page.js';
import { t } from './texts.js';

/** A second click on the button this soon after the answer belongs to the first. */
const SAME_CLICK = 1_000;
const MAX_RECEIPTS = 10;
/** The form's names of the server's fields, where they differ. */
const FIELDS = { 'to.user': 'users', 'to.users': 'users', 'to.topic': 'topic' };

const form = by('publish');
const button = form.querySelector('button');
let key = newKey();
let isBusy = false;
let answered = -Infinity;

function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `page-${[...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('')}`;
}

// What is shown

function show() {
  const kind = form.elements.kind.value;
  for (const part of form.querySelectorAll('[data-kinds]')) part.hidden = !part.dataset.kinds.split(' ').includes(kind);
  for (const part of form.querySelectorAll('[data-to]')) part.hidden = part.dataset.to !== form.elements.to.value;
  for (const name of ['expires_in', 'keep_after_read']) {
    const isAfter = form.elements[name].value === 'after';
    form.elements[`${name}_amount`].hidden = !isAfter;
    form.elements[`${name}_unit`].hidden = !isAfter;
  }
  form.querySelector('[data-label=message]').textContent = kind === 'message' ? t('publish.text') : t('publish.message');
  const { json, errors } = draft(form);
  by('json').textContent = errors.has('data') ? json : pretty(json);
  by('curl').textContent = curl(location.origin, key, json);
  return errors;
}

/** Shows an error at a field; an empty sentence removes it. */
function showError(name, sentence) {
  const error = by(`${name}-error`);
  error.textContent = sentence;
  error.hidden = !sentence;
  const input = form.elements[name];
  if (sentence) input?.setAttribute?.('aria-invalid', 'true');
  else input?.removeAttribute?.('aria-invalid');
}

/** The fields that can show an error, in the form's order. */
function fieldNames() {
  return [...form.querySelectorAll('[data-for]')].map((error) => error.dataset.for);
}

function showErrors(errors) {
  for (const name of fieldNames()) showError(name, errors.get(name) ?? '');
  const first = fieldNames().find((name) => errors.has(name));
  form.elements[first]?.focus();
}

function wrong(sentence) {
  by('form-error').textContent = sentence;
  by('form-error').hidden = !sentence;
}

// What the user does

form.addEventListener('input', ({ target }) => {
  // Another event is another publication.
  key = newKey();
  answered = -Infinity;
  if (target.name === 'kind' && target.value === 'alert') {
    if (form.elements.priority.value === 'normal') form.elements.priority.value = 'high';
    if (form.elements.level.value === 'info') form.elements.level.value = 'warning';
  }
  const errors = show();
  // While somebody types, only errors that are shown already are updated.
  for (const name of fieldNames()) if (!by(`${name}-error`).hidden) showError(name, errors.get(name) ?? '');
  wrong('');
});

form.addEventListener('submit', async (submission) => {
  submission.preventDefault();
  if (isBusy || performance.now() - answered < SAME_CLICK) return;
  // The one before was published: this is meant as one more.
  if (answered > -Infinity) {
    key = newKey();
    show();
  }
  const { json, type, errors } = draft(form);
  showErrors(errors);
  wrong('');
  if (errors.size > 0) return;
  isBusy = true;
  button.ariaBusy = 'true';
  try {
    const receipt = await call('/events', { method: 'POST', json, key });
    answered = performance.now();
    published(type, receipt);
  } catch (error) {
    failed(error);
  } finally {
    isBusy = false;
    button.ariaBusy = null;
  }
});

function failed(error) {
  if (error instanceof SignedOut) return signIn();
  const name = FIELDS[error.field?.replace(/\[\d+\]$/, '')] ?? error.field;
  const sentence = error.message.replace(`${error.field}: `, '');
  if (error.status && fieldNames().includes(name) && !form.elements[name].closest('[hidden]')) {
    showErrors(new Map([[name, t('server.message', { message: `${sentence[0].toUpperCase()}${sentence.slice(1)}` })]]));
  } else if (error.status && error.status < 500) {
    wrong(t('server.refused', { message: error.message }));
  } else {
    wrong(t('publish.error.unknown'));
  }
}

function published(type, { id, position }) {
  const list = by('receipts').querySelector('ol');
  if (list.querySelector(`[data-id="${id}"]`)) return;
  const item = by('receipt').content.firstElementChild.cloneNode(true);
  item.dataset.id = id;
  item.querySelector('.what').textContent = type;
  item.querySelector('.where').textContent = t('publish.receipt', { position, id });
  item.querySelector('button').addEventListener('click', () => takeBack(item, id));
  list.prepend(item);
  if (list.children.length > MAX_RECEIPTS) list.lastElementChild.remove();
  by('receipts').hidden = false;
  by('said').textContent = t('publish.published', { position });
}

async function takeBack(item, id) {
  const take = item.querySelector('button');
  if (take.ariaBusy === 'true') return;
  take.ariaBusy = 'true';
  let said = t('publish.taken_back');
  try {
    await call(`/events/${id}`, { method: 'DELETE' });
  } catch (error) {
    if (error instanceof SignedOut) return failed(error);
    take.ariaBusy = null;
    if (error.status !== 404) return wrong(t('publish.not_taken_back'));
    said = t('publish.gone');
  }
  item.classList.add('is-gone');
  // The result replaces the button, and takes its focus.
  const state = document.createElement('em');
  state.tabIndex = -1;
  state.textContent = said;
  const hadFocus = take === document.activeElement;
  take.replaceWith(state);
  if (hadFocus) state.focus();
  by('said').textContent = said;
}

by('copy').addEventListener('click', async () => {
  try {
    await navigator.clipboard.writeText(by('curl').textContent);
    by('copied').textContent = t('publish.copied');
  } catch {
    getSelection().selectAllChildren(by('curl'));
    by('copied').textContent = t('publish.selected');
  }
  setTimeout(() => (by('copied').textContent = ''), 5_000);
});

show();
