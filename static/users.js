// The accounts of all users, on the cluster page.

import { call } from './api.js';
import { attempt, confirmed, newRow, onEnd, onSubmit, removeRow, say, showSecret } from './manage.js';
import { by } from './page.js';

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
  const question = `Give ${name} a new password? The old one stops working, and ${name} is signed out everywhere.`;
  if (!(await confirmed(question, 'New password'))) return;
  await attempt(button, async () => {
    const { password } = await call(`/users/${at(name)}/password`, { method: 'PUT' });
    forgetSessions(name);
    say(`${name} has a new password.`);
    showSecret(`The password of ${name}`, password);
  });
});

onSubmit(by('new-user'), { name: 'The name', role: 'The role' }, async (fields) => {
  const body = { name: fields.name.value, role: fields.role.value };
  const made = await call('/users', { method: 'POST', body });
  by('users').prepend(newRow(by('user-blank'), made.name, made));
  by('new-user').reset();
  say(`${made.name} is added.`);
  showSecret(`The password of ${made.name}`, made.password);
});

onEnd(
  by('sessions'),
  (row) => `Sign out ${row.dataset.user} (${text(row, 'browser')})?`,
  (row) => `/users/${at(row.dataset.user)}/sessions/${row.dataset.id}`,
  (row) => {
    removeRow(row);
    say(`The session of ${row.dataset.user} has ended.`);
  },
);

onEnd(
  by('tokens'),
  (row) => `Revoke the token ${text(row, 'name')} of ${row.dataset.user}? Whatever uses it stops working.`,
  (row) => `/tokens/${row.dataset.id}`,
  (row) => {
    removeRow(row);
    say('The token is revoked.');
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
