// The texts that scripts show, in the page's language: src/http/pages/texts/en.json.

const { lang } = document.documentElement;
const { default: texts } = await import(`./texts.${lang}.js`);
const plurals = new Intl.PluralRules(lang);

/** The text `id` with these values in its braces. If it has plural forms, `values.count` chooses one. */
export function t(id, values = {}) {
  const text = texts[id];
  const chosen = typeof text === 'string' ? text : text[plurals.select(values.count)];
  return chosen.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
