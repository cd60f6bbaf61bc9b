// The bytes of a stream, frame by frame. A page with EventSource or /static/carillon.js sees none of this; here it is read
// like any other answer.

import { by, notice, showState, signIn, t } from './example.js';

const MOST = 300;
/** What of one frame is shown, in characters. */
const LONGEST = 4_000;
const given = [...new URLSearchParams(location.search)].filter(([, value]) => value);
const address = `/api/v1/stream${given.length ? '?' : ''}${new URLSearchParams(given)}`;
let connection = null;

async function connect() {
  connection = new AbortController();
  const { signal } = connection;
  by('connect').textContent = t('stream.disconnect');
  notice('');
  showState('connecting');
  try {
    const answer = await fetch(address, { signal });
    if (answer.status === 401) return signIn();
    if (!answer.ok) return notice(t('stream.refused', { status: answer.status, message: (await answer.json()).detail }));
    showState('live');
    const pieces = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    let frame = [];
    for (let piece = await pieces.read(); !piece.done; piece = await pieces.read()) {
      // Other servers may also end lines with CR; this one does not.
      const lines = (rest + piece.value).split('\n');
      rest = lines.pop();
      for (const line of lines) {
        if (line !== '') frame.push(line);
        // A blank line ends a frame; a comment in front of one is a keep-alive.
        if (line !== '' && !(frame.length === 1 && line.startsWith(':'))) continue;
        show(frame.join('\n'));
        frame = [];
      }
    }
    if (frame.length > 0) show(frame.join('\n'));
    notice(t('stream.ended'));
  } catch {
    if (!signal.aborted) notice(t('stream.broke'));
  } finally {
    connection = null;
    by('connect').textContent = t('stream.connect');
    showState('not connected');
  }
}

function show(frame) {
  const box = by('scroll');
  const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  const [item, time, text] = ['li', 'time', 'pre'].map((name) => document.createElement(name));
  time.textContent = new Date().toLocaleTimeString();
  // What publishers wrote is only ever text.
  const rest = frame.length - LONGEST;
  text.textContent = rest > 0 ? t('stream.cut', { text: frame.slice(0, LONGEST), count: rest }) : frame;
  item.append(time, text);
  by('frames').append(item);
  if (by('frames').childElementCount > MOST) by('frames').firstElementChild.remove();
  if (isAtEnd) box.scrollTop = box.scrollHeight;
}

by('connect').addEventListener('click', () => (connection ? connection.abort() : connect()));
by('clear').addEventListener('click', () => by('frames').replaceChildren());
by('request').textContent = `GET ${address}`;
addEventListener('pagehide', () => connection?.abort());
connect();
