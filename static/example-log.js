// A log that grows: new lines are put on the page ten times a second at most, and the oldest leave it.

import { connect } from './carillon.js';
import { account, Announcer, by, showState, t, Tail } from './example.js';

const MOST = 1_000;
const GATHER = 100;
const { topic } = by('example').dataset;
const tail = new Tail(by('scroll'), by('newer'));
const announcer = new Announcer(by('say'), (count) => t('log.new_lines', { count }));
/** Lines on their way to the page; more than fit there are not kept. */
let waiting = [];
let timer = null;
let isPaused = false;
let sincePause = 0;

const carillon = connect({ account, topics: [topic], history: 100 });
carillon.on('state', ({ state, since }) => showState(state, since));
carillon.on('event', (event) => {
  if (event.topic !== topic) return;
  waiting.push(event);
  if (waiting.length > MOST) waiting.shift();
  if (isPaused) {
    sincePause += 1;
    by('pause').textContent = t('log.resume_new', { count: sincePause });
  } else {
    timer ??= setTimeout(flush, GATHER);
  }
});

function flush() {
  timer = null;
  if (isPaused) return;
  const items = waiting.map(line);
  waiting = [];
  const count = items.filter((item) => !item.hidden).length;
  tail.add(count, () => {
    by('lines').append(...items);
    while (by('lines').childElementCount > MOST) by('lines').firstElementChild.remove();
  });
  by('empty').hidden = by('lines').childElementCount > 0;
  if (count > 0) announcer.arrived(items.findLast((item) => !item.hidden).lastElementChild.textContent);
}

/** What a publisher wrote is only ever text. */
function line({ data, created_at: at }) {
  const [item, time, text] = ['li', 'time', 'span'].map((name) => document.createElement(name));
  time.dateTime = at;
  time.textContent = new Date(at).toLocaleTimeString();
  text.textContent = typeof data === 'string' ? data : JSON.stringify(data);
  item.append(time, ' ', text);
  item.hidden = !matches(item);
  return item;
}

function matches(item) {
  return item.lastElementChild.textContent.toLowerCase().includes(by('filter').value.toLowerCase());
}

by('filter').addEventListener('input', () => {
  for (const item of by('lines').children) item.hidden = !matches(item);
  tail.show();
});

by('pause').addEventListener('click', () => {
  isPaused = !isPaused;
  sincePause = 0;
  by('pause').textContent = isPaused ? t('log.resume') : t('log.pause');
  if (!isPaused) flush();
});
