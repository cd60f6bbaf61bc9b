// The cluster page: the status of the nodes, and the accounts of all users.

import './users.js';
import { Chart, format } from './chart.js';
import { account, by, showState, signIn } from './page.js';
import { t } from './texts.js';
import { watch } from './watch.js';

/** A node whose last report is this much older than the answer, in milliseconds, is shown as silent. */
const SILENCE = 6_000;
/** The most cards of nodes that are gone: the earliest leave first. */
const MAX_GONE = 20;

const cards = by('nodes');
const nodes = new Map();

const METRICS = {
  listeners: (node) => node.listeners,
  published: (node) => node.published_per_second,
  delivered: (node) => node.delivered_per_second,
  lag: (node) => node.lag,
};
/** So many nodes in each state, in the order of the summary. */
const COUNTS = {
  ready: (count) => t('cluster.count.ready', { count }),
  draining: (count) => t('cluster.count.draining', { count }),
  unready: (count) => t('cluster.count.unready', { count }),
  silent: (count) => t('cluster.count.silent', { count }),
  unknown: (count) => t('cluster.count.unknown', { count }),
  gone: (count) => t('cluster.count.gone', { count }),
};
const clock = (time) => new Date(time).toLocaleTimeString();

class Card {
  /** The last status that was reported. */
  status = null;
  #charts = new Map();

  constructor(element) {
    this.element = element;
    this.state = element.dataset.state;
    for (const metric of element.querySelectorAll('[data-metric]')) {
      const chart = new Chart(metric.querySelector('svg'), metric.querySelector('.peak'));
      this.#charts.set(metric.dataset.metric, { chart, value: metric.querySelector('.value') });
    }
  }

  show(node, at, now) {
    this.status = node;
    for (const [name, read] of Object.entries(METRICS)) {
      const { chart, value } = this.#charts.get(name);
      chart.add(now, read(node));
      value.textContent = format(read(node));
    }
    const isSilent = Date.parse(at) - Date.parse(node.reported_at) > SILENCE;
    if (isSilent) this.is('silent', t('cluster.node.silent', { time: clock(node.reported_at) }));
    else if (node.draining) this.is('draining', t('cluster.node.draining'));
    else if (node.reasons.length) this.is('unready', t('cluster.node.unready'));
    else this.is('ready', t('cluster.node.ready'));
    const reasons = node.draining ? [] : [...node.reasons];
    const { lag, lag_seconds: seconds } = node;
    if (lag > 0 && seconds >= 1) reasons.push(t('cluster.node.behind', { seconds: format(seconds) }));
    this.#put('why', reasons.join('; '));
    const reached = (isOk) => (isOk ? t('cluster.node.ok') : t('cluster.node.unreachable'));
    this.#put('bus', reached(node.bus_ok));
    this.#put('store', reached(node.store_ok));
    const size = node.memory_bytes && format(node.memory_bytes / 2 ** 20);
    this.#put('memory', size ? t('cluster.node.memory', { size }) : t('cluster.node.memory_unknown'));
  }

  /** No longer listed: `state` is gone, or unknown while the other nodes cannot be asked. */
  miss(state, now) {
    for (const { chart } of this.#charts.values()) chart.draw(now);
    const time = this.status ? clock(this.status.reported_at) : clock(now);
    this.is(state, state === 'gone' ? t('cluster.node.gone', { time }) : t('cluster.node.unknown', { time }));
    this.#put('why', '');
  }

  is(state, text) {
    this.state = state;
    this.element.dataset.state = state;
    this.#put('state', text);
  }

  #put(of, text) {
    const part = this.element.querySelector(`[data-of=${of}]`);
    if (part.textContent !== text) part.textContent = text;
  }
}

function newCard(node) {
  const element = by('node-blank').content.firstElementChild.cloneNode(true);
  element.dataset.name = node.name;
  element.dataset.order = `${node.host} ${node.address} ${node.name}`;
  const texts = { where: `${node.host} ${node.address}`, version: node.version, started: node.started_at };
  for (const [of, text] of Object.entries(texts)) element.querySelector(`[data-of=${of}]`).textContent = text;
  const started = element.querySelector('[data-of=started]');
  started.dateTime = node.started_at;
  started.textContent = new Date(node.started_at).toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' });
  const after = [...cards.children].find((other) => other.dataset.order > element.dataset.order);
  cards.insertBefore(element, after ?? null);
  return new Card(element);
}

function show({ at, reported_by: reporter, nodes: reported, complete }) {
  const now = Date.now();
  const before = summary();
  for (const node of reported) {
    if (!nodes.has(node.name)) nodes.set(node.name, newCard(node));
    nodes.get(node.name).show(node, at, now);
  }
  const names = new Set(reported.map(({ name }) => name));
  for (const [name, card] of nodes) {
    if (!names.has(name)) card.miss(complete || card.state === 'gone' ? 'gone' : 'unknown', now);
  }
  const gone = [...nodes].filter(([, card]) => card.state === 'gone');
  for (const [name, card] of gone.slice(0, Math.max(0, gone.length - MAX_GONE))) {
    card.element.remove();
    nodes.delete(name);
  }
  const own = nodes.get(reporter)?.status;
  by('incomplete').hidden = complete;
  by('incomplete').textContent = complete
    ? ''
    : t('cluster.only_one', { host: own?.host, address: own?.address });
  const after = summary();
  by('summary').textContent = after;
  if (before !== after) by('say-polite').textContent = after;
}

function summary() {
  const counts = new Map(Object.keys(COUNTS).map((state) => [state, 0]));
  for (const { state } of nodes.values()) counts.set(state, counts.get(state) + 1);
  return [...counts].filter(([, count]) => count > 0).map(([state, count]) => COUNTS[state](count)).join(', ');
}

for (const element of cards.children) nodes.set(element.dataset.name, new Card(element));

watch(`/api/v1/cluster/stream?account=${encodeURIComponent(account)}`, {
  nodes: show,
  state: showState,
  signedOut: signIn,
});
