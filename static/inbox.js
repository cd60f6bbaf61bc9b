// The inbox page: the list that the server rendered, kept up to date by the stream.

import { call, serverNow, SignedOut } from './api.js';
import { Announcer, UrgentAnnouncer } from './announce.js';
import { Arrivals, nextFrame } from './arrivals.js';
import { Badge } from './badge.js';
import { connect } from './carillon.js';
import { Filter, tidy } from './filter.js';
import { members } from './json.js';
import { EntryList } from './list.js';
import { account, by, notice, showState, signIn } from './page.js';
import { summaryOf } from './summary.js';
import { Sync } from './sync.js';
import { t } from './texts.js';
import { Undo } from './undo.js';

/** What remains of an entry that was taken back or has expired, by its type. */
const RETRACTED = {
  notification: t('inbox.retracted.notification'),
  alert: t('inbox.retracted.alert'),
  message: t('inbox.retracted.message'),
  system: t('inbox.retracted.system'),
  other: t('inbox.retracted'),
};
const EXPIRED = {
  notification: t('inbox.expired.notification'),
  alert: t('inbox.expired.alert'),
  message: t('inbox.expired.message'),
  system: t('inbox.expired.system'),
  other: t('inbox.expired'),
};

/** Priorities that interrupt a screen reader. */
const URGENT = ['high', 'urgent'];
/** An entry shown so many milliseconds after the last one is highlighted; in a burst none is. */
const CALM = 1_000;

const page = by('inbox');
const filter = new Filter(location.search);
const list = new EntryList(by('entries'), by('blank'));
const announcer = new Announcer(by('say-polite'), (count) => t('inbox.arrived_several', { count }));
const urgent = new UrgentAnnouncer(by('say-now'), (count) => t('inbox.arrived_several_urgent', { count }));
const badge = new Badge();
const undo = new Undo(by('toast'));
// Listens to all, whatever the filter: all unread are counted, and pages with other filters share the connection.
const carillon = connect({ account, cursor: page.dataset.cursor, topics: filter.topics });
const sync = new Sync(list, filter, page.dataset.next || null, {
  counts: showCounts,
  newer: (event, data) => arrivals.add(event, data),
  cleared: () => arrivals.clear(),
  changed: show,
  attempt,
  signedOut: signOut,
});
const arrivals = new Arrivals(list, by('top'), by('fresh'), {
  shown: (entries) => {
    // Under load it would only flicker.
    if (performance.now() - lastShown > CALM) entries.forEach((entry) => entry.element.classList.add('is-new'));
    lastShown = performance.now();
    show();
  },
  tooMany: () => sync.refresh(true),
});
let unread = parseInt(by('unread').textContent);
/** Whether there may be more: the server counts no further. */
let hasMore = by('unread').textContent.endsWith('+');
let isShowing = false;
let lastShown = 0;

// What the page shows besides the entries

function show() {
  if (isShowing) return;
  isShowing = true;
  nextFrame(() => {
    isShowing = false;
    const counted = `${unread}${hasMore ? '+' : ''}`;
    by('unread').textContent = counted;
    badge.show(counted);
    by('empty').hidden = list.size > 0 || (sync.next !== null && sync.mayLoad(false));
    const isCut = list.hasTrimmed || (list.isFull && sync.next !== null);
    by('older').hidden = sync.next === null || isCut;
    by('full').hidden = !isCut;
  });
}

function count(change) {
  unread = Math.max(0, unread + change);
  show();
}

function showCounts({ unread: number, more, by_type: types }) {
  unread = number;
  hasMore = more;
  by('types').replaceChildren(...Object.keys(types).map((type) => {
    const option = document.createElement('option');
    option.value = type;
    return option;
  }));
}

function signOut() {
  carillon.close();
  signIn();
}

/** Does something that needs the server, and shows its failure. Returns whether it worked. */
async function attempt(work) {
  try {
    await work();
    notice('');
    return true;
  } catch (error) {
    if (error instanceof SignedOut) signOut();
    else if (error.status) notice(t('server.refused', { message: error.message }));
    else notice(t('server.unreachable'));
    return false;
  }
}

// Frames of the stream

function arrive(event) {
  if (list.byId(event.id) || arrivals.has(event)) return;
  count(1);
  const data = members(event.source).get('data');
  if (!filter.admits(event, data)) return;
  const { headline } = summaryOf(event.type, data);
  if (URGENT.includes(event.priority)) urgent.arrived(t('inbox.arrived_urgent', { priority: event.priority, headline }));
  else announcer.arrived(t('inbox.arrived', { headline }));
  arrivals.add(event, data);
}

function setRead(entry, read) {
  if (entry.isRead !== read) count(read ? -1 : 1);
  entry.isRead = read;
  if (read && filter.unreadOnly) leave(entry);
}

/** Removes an entry that the server no longer lists; while it is open, it stays. */
function leave(entry) {
  if (entry.isOpen) entry.hasLeft = true;
  else list.remove(entry);
  show();
}

/** An event has ended for everyone. */
function end(position, texts) {
  const entry = list.byPosition(position);
  if (entry) {
    if (!entry.isRead) count(-1);
    list.end(entry, texts[entry.type] ?? texts.other);
    show();
  } else if (arrivals.at(position)) {
    arrivals.drop(position);
    count(-1);
  } else {
    sync.checkSoon();
  }
}

function readElsewhere({ position, read, up_to: upTo }) {
  if (upTo !== undefined) {
    list.entries().filter((entry) => entry.position <= upTo).forEach((entry) => setRead(entry, true));
    return sync.refreshSoon();
  }
  if (position === undefined) return sync.refreshSoon();
  const entry = list.byPosition(position);
  if (entry) {
    setRead(entry, read);
    if (read) recheck(entry);
  } else if (arrivals.at(position)) {
    // It waits to be shown: the list, read again, says whether it is read.
    arrivals.drop(position);
    sync.refreshSoon();
  } else if (filter.unreadOnly && !read) {
    sync.refreshSoon();
  } else {
    sync.checkSoon();
  }
}

carillon.on('event', (event) => sync.apply(() => arrive(event)));
carillon.on('read', (what) => sync.apply(() => readElsewhere(what)));
carillon.on('retract', ({ position }) => sync.apply(() => end(position, RETRACTED)));
carillon.on('expire', ({ position }) => sync.apply(() => end(position, EXPIRED)));
// Not through `sync.apply`: a list that is being read is outdated.
carillon.on('reset', () => sync.refresh(true));

let wasLive = false;
carillon.on('state', ({ state, since }) => {
  showState(state, since);
  if (state === 'signed out') signOut();
  if (state !== 'live') return;
  // Notices of what was read or taken back meanwhile are not repeated. Spread out: many pages come back at once.
  if (wasLive) sync.refreshSoon();
  wasLive = true;
});

/** Some entries do not stay once they are read. Asked for as a page of one, which is no error when it is empty. */
async function recheck(entry) {
  try {
    const { entries: [first] } = await call(filter.at(entry));
    if (first?.id !== entry.id && list.byId(entry.id) === entry) leave(entry);
  } catch (error) {
    if (error instanceof SignedOut) signOut();
  }
}

// What the user does

const marking = new Set();

async function mark(entry, read) {
  const { id } = entry;
  if (marking.has(id)) return;
  marking.add(id);
  const worked = await attempt(() => call(`/inbox/${id}/read`, { method: read ? 'PUT' : 'DELETE' }));
  marking.delete(id);
  if (!worked) return;
  if (read) undo.offer(t('inbox.marked_read'), () => mark(entry, false));
  if (list.byId(id) !== entry) return read || sync.refresh();
  entry.hasLeft &&= read;
  setRead(entry, read);
  if (read) recheck(entry);
}

list.element.addEventListener('click', ({ target }) => {
  const entry = target.closest('.toggle-read') && list.around(target);
  if (entry) mark(entry, !entry.isRead);
});

// The event does not bubble.
list.element.addEventListener('toggle', ({ target }) => {
  const entry = list.around(target);
  if (!entry) return;
  entry.showData();
  if (entry.isOpen && !entry.isRead) mark(entry, true);
  if (!entry.isOpen && entry.hasLeft) list.remove(entry);
  if (!entry.isOpen) arrivals.settle();
  show();
}, true);

by('read-all')?.addEventListener('click', async () => {
  const position = list.newest;
  if (position === 0) return;
  let number;
  const worked = await attempt(async () => {
    ({ number } = await call('/inbox/read-up-to', { method: 'POST', body: { position } }));
  });
  if (!worked) return;
  undo.offer(t('inbox.marked_all'), async () => {
    await attempt(() => call(`/inbox/read-up-to/${number}`, { method: 'DELETE' }));
    sync.refresh();
  });
  sync.refresh();
});

// Older ones come when the end of the list comes into view; the button is for the keyboard, and for when that ended.

const older = by('older');
const nearTheEnd = new IntersectionObserver((changes) => changes.at(-1).isIntersecting && loadOlder(false), {
  rootMargin: '0px 0px 400px 0px',
});

async function loadOlder(byHand) {
  if (older.ariaBusy === 'true' || !sync.mayLoad(byHand)) return;
  older.ariaBusy = 'true';
  const added = await sync.older(byHand);
  older.ariaBusy = null;
  if (byHand) announcer.say(t('inbox.older_added', { count: added.length }));
  if (byHand && older.matches(':focus') && sync.next === null) added[0]?.focus();
  // It reports only changes: if the end is still in view, more is wanted.
  nextFrame(() => {
    nearTheEnd.unobserve(older);
    nearTheEnd.observe(older);
  });
}

older.addEventListener('click', () => loadOlder(true));
nearTheEnd.observe(older);

by('restart').href = location.pathname + location.search;
tidy(by('filter'));

// Entries end by the server's clock, also while nothing can be heard from it.
setInterval(() => {
  const now = serverNow();
  const ended = now === null ? [] : list.entries().filter((entry) => entry.hasExpired(now));
  ended.forEach((entry) => end(entry.position, EXPIRED));
}, 1_000);

show();
