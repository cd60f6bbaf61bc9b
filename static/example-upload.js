// An upload. The page that sends learns its progress from the stream, as every other page of the user does: what the server
// has received, not what the browser has handed to the network.

import { connect } from './carillon.js';
import { account, by, notice, randomName, showState, signIn } from './example.js';

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
    if (events === 0 && !sending) showProgress('is not known: it may have been cut off, or not yet begun');
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
    const part = total ? Math.floor((100 * received) / total) : null;
    showProgress(part === null ? 'is on its way' : `${part} %`, total ? received / total : undefined);
    by('amount').textContent = `${number.format(received)}${total ? ` of ${number.format(total)}` : ''} bytes`;
    // Each report of progress expires. When none follows in time, its sender is gone.
    silence = setTimeout(() => showProgress('timed out: nothing more was heard of it'), Date.parse(until) - Date.parse(at));
  } else if (type === 'upload.completed') {
    showProgress('completed', 1);
    by('amount').textContent = `${number.format(size)} bytes, SHA-256 ${sha256}`;
  } else if (type === 'upload.failed') {
    showProgress(`failed: ${reason}`);
  } else if (type === 'upload.timed_out') {
    showProgress(`timed out: ${reason}`);
  }
}

function showProgress(text, part) {
  by('state').textContent = text;
  by('bar').hidden = part === undefined && text !== 'is on its way';
  if (part === undefined) by('bar').removeAttribute('value');
  else by('bar').value = part;
}

by('choose').addEventListener('submit', async (submitted) => {
  submitted.preventDefault();
  const [file] = by('file').files;
  if (!file || sending) return;
  if (file.size > Number(max)) return notice('This file is too large.');
  notice('');
  const name = randomName();
  sending = new AbortController();
  by('send').disabled = true;
  by('cancel').hidden = false;
  by('name').textContent = file.name;
  by('amount').textContent = '';
  showProgress('begins');
  watch(name);
  history.replaceState(null, '', `?id=${name}`);
  try {
    const query = new URLSearchParams({ account, name: file.name.slice(0, 60) });
    const answer = await fetch(`/examples/upload/${name}?${query}`, { method: 'PUT', body: file, signal: sending.signal });
    if (answer.status === 401) return signIn();
    if (!answer.ok) notice(`That did not work: ${(await answer.json()).detail}.`);
  } catch (error) {
    notice(error.name === 'AbortError' ? 'You cancelled it.' : 'The connection broke while the file was sent.');
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
