// JSON as text: taken apart and laid out without being parsed, so that no digit of a number changes and no depth is
// too deep. What is given here was checked by the server.

const TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\],:]|[^\s"{}[\],:]+/g;
/** Deeper levels are not indented further: the width would grow with the square of the depth. */
const MAX_INDENT = 16;

/** The elements of an array, or the members of an object, as they are written. */
export function elements(text) {
  const found = [];
  let depth = 0;
  let from = 0;
  const take = (end) => {
    const element = text.slice(from, end).trim();
    if (element) found.push(element);
    from = end + 1;
  };
  for (const { 0: token, index } of text.matchAll(TOKEN)) {
    if (token === '{' || token === '[') {
      depth += 1;
      if (depth === 1) from = index + 1;
    } else if (token === '}' || token === ']') {
      depth -= 1;
      if (depth === 0) take(index);
    } else if (token === ',' && depth === 1) {
      take(index);
    }
  }
  return found;
}

/** The members of an object by name, each value as it is written; of anything else, none. */
export function members(text) {
  if (!text.startsWith('{')) return new Map();
  return new Map(elements(text).map((member) => {
    const [name] = member.match(/^"[^"\\]*(?:\\.[^"\\]*)*"/);
    return [JSON.parse(name), member.slice(name.length).replace(/^\s*:\s*/, '')];
  }));
}

/** The same JSON, a line for each value. */
export function pretty(text) {
  const lines = [];
  let line = '';
  let depth = 0;
  let last = '';
  const next = () => {
    lines.push(line);
    line = '  '.repeat(Math.min(depth, MAX_INDENT));
  };
  for (const [token] of text.matchAll(TOKEN)) {
    const isEnd = token === '}' || token === ']';
    if (isEnd) depth -= 1;
    if (last === ',' || (isEnd ? !'{['.includes(last) : last && '{['.includes(last))) next();
    line += token === ':' ? ': ' : token;
    if (token === '{' || token === '[') depth += 1;
    last = token;
  }
  lines.push(line);
  return lines.join('\n');
}
