// The accounts of all users, on the cluster page.

import { call } from './api.js';
import { attempt, confirmed, newRow, onEnd, onSubmit, removeRow, say, showSecret } from './manage.js';
import { by } from './page.js';
import { t } from './texts.js';

const text = (row, of) => row.querySelector(`[data-of=${of}]`).textContent;
const at = encodeURIComponent;

/** Removes the rows of a user's sessions that ended; the session of this page goes on. */
function forgetSessions(name) {
  for (const row of [...by('sessions').children]) {
    if (row.dataset.user === name && !('current' in row.dataset)) row.remove();
  }
}

by('users').addEventListener('click', async ({ target }) => {
  const button = target.closest('button');
  if (!button) return;
  const name = button.closest('li').dataset.id;
  const question = t('cluster.user.new_password.question', { name });
  if (!(await confirmed(question, t('cluster.user.new_password')))) return;
  await attempt(button, async () => {
    const { password } = await call(`/users/${at(name)}/password`, { method: 'PUT' });
    forgetSessions(name);
    say(t('cluster.user.has_new_password', { name }));
    showSecret(t('cluster.user.password', { name }), password);
  });
});

const names = { name: t('cluster.user.field.name'), role: t('cluster.user.field.role') };
onSubmit(by('new-user'), names, async (fields) => {
  const body = { name: fields.name.value, role: fields.role.value };
  const made = await call('/users', { method: 'POST', body });
  by('users').prepend(newRow(by('user-blank'), made.name, made));
  by('new-user').reset();
  say(t('cluster.user.added', { name: made.name }));
  showSecret(t('cluster.user.password', { name: made.name }), made.password);
});

onEnd(
  by('sessions'),
  (row) => t('cluster.session.end', { user: row.dataset.user, browser: text(row, 'browser') }),
  (row) => `/users/${at(row.dataset.user)}/sessions/${row.dataset.id}`,
  (row) => {
    removeRow(row);
    say(t('cluster.session.ended', { user: row.dataset.user }));
  },
);

onEnd(
  by('tokens'),
  (row) => t('cluster.token.end', { name: text(row, 'name'), user: row.dataset.user }),
  (row) => `/tokens/${row.dataset.id}`,
  (row) => {
    removeRow(row);
    say(t('token.revoked'));
  },
);

/** The button below a list appends its next page. */
function onMore(list, key, row) {
  const more = by(`more-${list}`);
  more.addEventListener('click', () =>
    attempt(more, async () => {
      const page = await call(`/${list}?after=${at(more.dataset.next)}`);
      const known = new Set([...by(list).children].map((one) => one.dataset.id));
      by(list).append(...page[list].filter((one) => !known.has(String(one[key]))).map(row));
      more.dataset.next = page.next ?? '';
      more.hidden = !page.next;
    }),
  );
}

onMore('users', 'name', (user) => newRow(by('user-blank'), user.name, user));
onMore('tokens', 'id', (token) =>
  newRow(by('token-blank'), token.id, { ...token, scopes: token.scopes.join(', ') }),
);
