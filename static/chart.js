// A small chart of a metric over the last two minutes.

import { t } from './texts.js';

const SVG = 'http://www.w3.org/2000/svg';
const SPAN = 120_000;
/** Values come every two seconds; after so many milliseconds without one the line breaks. */
const BREAK = 7_000;
const [WIDTH, HEIGHT] = [120, 32];

export class Chart {
  #points = [];
  #svg;
  #peak;

  /** Draws into `svg`, and says in `peak` how high it went. */
  constructor(svg, peak) {
    this.#svg = svg;
    this.#peak = peak;
    svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute('preserveAspectRatio', 'none');
  }

  add(at, value) {
    this.#points.push({ at, value });
    this.draw(at);
  }

  /** Draws the chart as of `now`: older values move to the left. */
  draw(now) {
    this.#points = this.#points.filter(({ at }) => now - at <= SPAN);
    const peak = Math.max(0, ...this.#points.map(({ value }) => value));
    const lines = [];
    let last = -Infinity;
    for (const { at, value } of this.#points) {
      if (at - last > BREAK) lines.push([]);
      const x = WIDTH - ((now - at) / SPAN) * WIDTH;
      // A line of nothing but zeros lies at the bottom.
      const y = HEIGHT - 1 - (value / (peak || 1)) * (HEIGHT - 2);
      lines.at(-1).push(`${x.toFixed(1)},${y.toFixed(1)}`);
      last = at;
    }
    this.#svg.replaceChildren(...lines.map(polyline));
    this.#peak.textContent = peak ? t('cluster.peak', { value: format(peak) }) : '';
  }
}

function polyline(points) {
  const line = document.createElementNS(SVG, 'polyline');
  line.setAttribute('points', points.join(' '));
  return line;
}

export function format(value) {
  return value.toLocaleString([], { maximumFractionDigits: value < 10 ? 1 : 0 });
}
