// The inbox page: the list the server rendered, kept true by the stream.

import { call, serverNow, SignedOut } from './api.js';
import { Announcer } from './announce.js';
import { EntryList, MAX_ENTRIES } from './list.js';
import { connect } from './carillon.js';

const CHECK_EVERY = 60_000;
const by = (id) => document.getElementById(id);
const random = (least, most) => least + Math.random() * (most - least);

const address = new URLSearchParams(location.search);
const given = (name) => address.getAll(name).filter(Boolean);
const listed = ['type', 'min_priority', 'unread', 'topic'];
const listQuery = new URLSearchParams([...address].filter(([name, value]) => listed.includes(name) && value));
const unreadOnly = address.get('unread') === 'true';
const topicsOnly = given('topic').length > 0;

const page = by('inbox');
const list = new EntryList(by('entries'), by('blank'));
const announcer = new Announcer();
const carillon = connect({
  account: page.dataset.account,
  cursor: page.dataset.cursor,
  types: given('type'),
  topics: given('topic'),
  minPriority: given('min_priority')[0],
});
let next = page.dataset.next || null;
let unread = Number(by('unread').textContent);
/** Frames that came while the list is being read, to be applied on top of it; null when it is not. */
let held = null;
let refreshTimer = null;
let checkSoonTimer = null;

// What the page shows besides the entries

function show() {
  by('unread').textContent = unread;
  document.title = `${unread ? `(${unread}) ` : ''}Inbox · Carillon`;
  by('empty').hidden = list.size > 0;
  const isCut = list.hasTrimmed || (list.isFull && next !== null);
  by('older').hidden = next === null || isCut;
  by('full').hidden = !isCut;
}

function count(change) {
  unread = Math.max(0, unread + change);
}

function notice(text) {
  by('notice').textContent = text;
  by('notice').hidden = !text;
}

function signOut() {
  carillon.close();
  location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
}

/** Does something that needs the server, and says so when it fails. True if it worked. */
async function attempt(work) {
  try {
    await work();
    notice('');
    return true;
  } catch (error) {
    if (error instanceof SignedOut) signOut();
    else notice(error.status ? `That did not work: ${error.message}.` : 'The server cannot be reached at the moment.');
    return false;
  }
}

// What the stream says

function arrive(event) {
  if (topicsOnly && event.to !== 'topic') return;
  const entry = list.add(event);
  if (!entry) return;
  entry.element.classList.add('is-new');
  count(1);
  announcer.arrived(event);
}

function setRead(entry, read) {
  if (entry.isRead !== read) count(read ? -1 : 1);
  entry.isRead = read;
  if (read && unreadOnly) list.remove(entry);
}

function leave(position) {
  const entry = list.byPosition(position);
  if (!entry) return checkSoon();
  if (!entry.isRead) count(-1);
  list.remove(entry);
}

function readElsewhere({ position, read, up_to: upTo }) {
  if (upTo !== undefined) {
    list.entries().filter((entry) => entry.position <= upTo).forEach((entry) => setRead(entry, true));
    return refreshSoon();
  }
  const entry = list.byPosition(position);
  if (!entry) return unreadOnly && !read ? refreshSoon() : checkSoon();
  setRead(entry, read);
  if (read) recheck(entry);
}

/** Applies a frame now, or after the list that is being read. */
function apply(work) {
  if (held === null) {
    work();
    show();
  } else {
    held.push(work);
    // So many that the list being read is old already: those kept fill the page, and it is read once more.
    if (held.length > 2 * MAX_ENTRIES) {
      held.shift();
      readAgain = true;
    }
  }
}

carillon.on('event', (event) => apply(() => arrive(event)));
carillon.on('read', (what) => apply(() => readElsewhere(what)));
carillon.on('retract', ({ position }) => apply(() => leave(position)));
carillon.on('expire', ({ position }) => apply(() => leave(position)));
// Does not wait for a list that is being read: it counts no more.
carillon.on('reset', () => refresh(true));

let wasLive = false;
carillon.on('state', ({ state, since }) => {
  by('pill').dataset.state = state;
  by('pill').textContent = state === 'offline' ? `offline since ${since.toLocaleTimeString()}` : state;
  if (state === 'signed out') signOut();
  if (state !== 'live') return;
  // What others read or took back in between is not repeated by the stream. Spread out: many come back at once.
  if (wasLive) refreshSoon();
  wasLive = true;
});

// What the server knows

let reading = false;
let replaceNext = false;
let readAgain = false;

/** Reads the newest page and makes the list agree with it; `replace`: nothing shown so far counts any more. */
async function refresh(replace) {
  replaceNext ||= replace;
  clearTimeout(refreshTimer);
  refreshTimer = null;
  if (reading) return void (refreshTimer = setTimeout(() => refresh(false), 1_000));
  reading = true;
  held = [];
  const worked = await attempt(async () => {
    const fresh = await call(`/inbox?${listQuery}`);
    const counts = await call('/inbox/counts');
    if (replaceNext) {
      list.clear();
      next = fresh.next;
      replaceNext = false;
    }
    merge(fresh);
    // Frames held from here on are in the counts as often as not; the next check tells.
    showCounts(counts);
  });
  reading = false;
  const frames = held;
  held = null;
  frames.forEach((work) => work());
  show();
  if (readAgain) refreshSoon();
  else if (worked && frames.length > 0) checkSoon();
  readAgain = false;
  if (!worked) refreshTimer ??= setTimeout(() => refresh(false), random(5_000, 15_000));
}

function refreshSoon() {
  refreshTimer ??= setTimeout(() => refresh(false), random(500, 5_000));
}

function merge({ entries, next: more }) {
  const there = new Set(entries.map((entry) => entry.id));
  const lowest = more === null ? 0 : Math.min(...entries.map((entry) => entry.position));
  const gone = list.entries().filter((entry) => entry.position >= lowest && !there.has(entry.id));
  gone.forEach((entry) => list.remove(entry));
  for (const event of entries) {
    const known = list.byId(event.id);
    if (known) known.isRead = Boolean(event.read_at);
    else list.add(event);
  }
}

/** Some entries do not stay once they are read. */
async function recheck(entry) {
  try {
    await call(`/inbox/${entry.id}`);
  } catch (error) {
    if (error instanceof SignedOut) return signOut();
    if (error.status === 404 && list.byId(entry.id) === entry) list.remove(entry);
    show();
  }
}

function showCounts({ unread: number, by_type: types }) {
  unread = number;
  by('types').replaceChildren(...Object.keys(types).map((type) => {
    const option = document.createElement('option');
    option.value = type;
    return option;
  }));
}

/** Whether the number is right, and the session valid. */
async function check() {
  clearTimeout(checkSoonTimer);
  checkSoonTimer = null;
  try {
    showCounts(await call('/inbox/counts'));
    show();
  } catch (error) {
    // Whether the server can be reached, the stream knows better.
    if (error instanceof SignedOut) signOut();
  }
}

function checkSoon() {
  checkSoonTimer ??= setTimeout(check, random(2_000, 10_000));
}

// What the user does

list.element.addEventListener('click', async ({ target }) => {
  const button = target.closest('.toggle-read');
  const entry = button && list.byId(button.closest('.entry').dataset.id);
  if (!entry) return;
  const read = !entry.isRead;
  // Not `disabled`, which would take the focus away from somebody at the keyboard.
  if (button.ariaBusy === 'true') return;
  button.ariaBusy = 'true';
  const worked = await attempt(() => call(`/inbox/${entry.id}/read`, { method: read ? 'PUT' : 'DELETE' }));
  button.ariaBusy = null;
  if (!worked || list.byId(entry.id) !== entry) return;
  setRead(entry, read);
  if (read) recheck(entry);
  show();
});

by('read-all')?.addEventListener('click', async () => {
  const position = list.newest;
  if (position === 0) return;
  if (await attempt(() => call('/inbox/read-up-to', { method: 'POST', body: { position } }))) {
    announcer.say('All are marked as read');
    refresh(false);
  }
});

by('older').addEventListener('click', async ({ target }) => {
  if (target.ariaBusy === 'true' || next === null) return;
  target.ariaBusy = 'true';
  await attempt(async () => {
    const key = next;
    const older = await call(`/inbox?${listQuery}${listQuery.size ? '&' : ''}after=${encodeURIComponent(key)}`);
    // The list was read anew meanwhile: this page no longer follows it.
    if (next !== key) return;
    const added = older.entries.map((event) => list.add(event)).filter(Boolean);
    next = older.next;
    announcer.say(`${added.length} older entries`);
    if (target.matches(':focus') && next === null) added[0]?.element.querySelector('.toggle-read').focus();
  });
  target.ariaBusy = null;
  show();
});

by('restart').href = location.pathname + location.search;

// Entries end by the server's clock, also while nothing can be heard from it.
setInterval(() => {
  const now = serverNow();
  const ended = now === null ? [] : list.entries().filter((entry) => entry.hasExpired(now));
  ended.forEach((entry) => leave(entry.position));
  if (ended.length) show();
}, 1_000);

setInterval(() => document.hidden || check(), CHECK_EVERY * random(0.8, 1.2));

setTimeout(check, random(0, 2_000));
show();
