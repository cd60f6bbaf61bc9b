// An upload. The page that sends learns its progress from the stream, as every other page of the user does: what the server
// has received, not what the browser has handed to the network.

import { connect } from './carillon.js';
import { account, by, notice, randomName, showState, signIn, t } from './example.js';

const { prefix, id, max } = by('example').dataset;
const number = new Intl.NumberFormat();
let carillon = null;
let silence = null;
let sending = null;

/** Follows the upload `name`: first its last known state, then what comes. */
function watch(name) {
  carillon?.close();
  const topic = `${prefix}/${name}`;
  carillon = connect({ account, topics: [topic], history: 1 });
  carillon.on('state', ({ state, since }) => showState(state, since));
  carillon.on('event', (event) => event.topic === topic && show(event));
  carillon.on('history', ({ events }) => {
    if (events === 0 && !sending) showProgress(t('upload.unknown'));
  });
  by('progress').hidden = false;
  by('watch').hidden = false;
  by('link').href = `/examples/upload?id=${encodeURIComponent(name)}`;
}

function show({ type, data, created_at: at, expires_at: until }) {
  clearTimeout(silence);
  const { name, received, total, size, sha256, reason } = data;
  by('name').textContent = name;
  if (type === 'upload.progress') {
    if (total) {
      showProgress(t('upload.percent', { percent: Math.floor((100 * received) / total) }), received / total);
      showAmount(t('upload.received_of', { received: number.format(received), total: number.format(total) }));
    } else {
      showProgress(t('upload.on_its_way'), null);
      showAmount(t('upload.received', { received: number.format(received) }));
    }
    // Each report of progress expires. When none follows in time, its sender is gone.
    silence = setTimeout(() => showProgress(t('upload.silent')), Date.parse(until) - Date.parse(at));
  } else if (type === 'upload.completed') {
    showProgress(t('upload.completed'), 1);
    showAmount(t('upload.hash', { size: number.format(size), hash: sha256 }));
  } else if (type === 'upload.failed') {
    showProgress(t('upload.failed', { reason }));
  } else if (type === 'upload.timed_out') {
    showProgress(t('upload.timed_out', { reason }));
  }
}

/** Shows a state, and a bar if there is a `part` of 1 that is done: null while that is not known. */
function showProgress(text, part) {
  by('state').textContent = text;
  by('bar').hidden = part === undefined;
  if (part === undefined || part === null) by('bar').removeAttribute('value');
  else by('bar').value = part;
}

function showAmount(text) {
  by('amount').textContent = text;
}

by('choose').addEventListener('submit', async (submitted) => {
  submitted.preventDefault();
  const [file] = by('file').files;
  if (!file || sending) return;
  if (file.size > Number(max)) return notice(t('upload.too_large'));
  notice('');
  const name = randomName();
  sending = new AbortController();
  by('send').disabled = true;
  by('cancel').hidden = false;
  by('name').textContent = file.name;
  showAmount('');
  showProgress(t('upload.begins'));
  watch(name);
  history.replaceState(null, '', `?id=${name}`);
  try {
    const query = new URLSearchParams({ account, name: file.name.slice(0, 60) });
    const answer = await fetch(`/examples/upload/${name}?${query}`, { method: 'PUT', body: file, signal: sending.signal });
    if (answer.status === 401) return signIn();
    if (!answer.ok) notice(t('server.refused', { message: (await answer.json()).detail }));
  } catch (error) {
    notice(error.name === 'AbortError' ? t('upload.cancelled') : t('upload.broke'));
  } finally {
    sending = null;
    by('send').disabled = false;
    by('cancel').hidden = true;
  }
});

by('cancel').addEventListener('click', () => sending?.abort());

if (id) watch(id);
else showState('not connected');
by('send').disabled = false;
