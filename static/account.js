// The account page: the user's own sessions, tokens and password.

import { call } from './api.js';
import { attempt, confirmed, newRow, onEnd, onSubmit, removeRow, say, showSecret } from './manage.js';
import { by, signIn } from './page.js';

const text = (row, of) => row.querySelector(`[data-of=${of}]`).textContent;
const others = () => [...by('sessions').children].filter((row) => !('current' in row.dataset));

function showOthers() {
  by('end-others').hidden = others().length === 0;
}

onEnd(
  by('sessions'),
  (row) => ('current' in row.dataset ? 'Sign out here?' : `Sign out ${text(row, 'browser')}?`),
  (row) => `/account/sessions/${row.dataset.id}`,
  (row) => {
    if ('current' in row.dataset) return signIn();
    removeRow(row);
    showOthers();
    say('Signed out there.');
  },
);

by('end-others').addEventListener('click', async ({ currentTarget: button }) => {
  if (!(await confirmed('Sign out everywhere but here?', 'Sign out everywhere else'))) return;
  await attempt(button, async () => {
    const { ended } = await call('/account/sessions', { method: 'DELETE' });
    others().forEach((row) => row.remove());
    say(ended === 1 ? 'One other session has ended.' : `${ended} other sessions have ended.`);
  });
  showOthers();
  by('sessions-title').focus();
});

onEnd(
  by('tokens'),
  (row) => `Revoke the token ${text(row, 'name')}? Whatever uses it stops working.`,
  (row) => `/account/tokens/${row.dataset.id}`,
  (row) => {
    removeRow(row);
    say('The token is revoked.');
  },
);

onSubmit(
  by('new-token'),
  { name: 'The name', scopes: 'What it may do', days: 'The number of days' },
  async (fields, showError) => {
    const scopes = ['listen', 'publish'].filter((scope) => fields[scope].checked);
    if (!scopes.length) return showError('listen', 'Choose what it may do.');
    const days = fields.days.value ? Number(fields.days.value) : null;
    const body = { name: fields.name.value, scopes, days };
    const made = await call('/account/tokens', { method: 'POST', body });
    const texts = { ...made, scopes: made.scopes.join(', '), user: '' };
    by('tokens').prepend(newRow(by('token-blank'), made.id, texts));
    by('new-token').reset();
    say('The token is made.');
    showSecret(`The token ${made.name}`, made.secret);
  },
);

onSubmit(
  by('new-password'),
  { old: 'The old password', new: 'The new password' },
  async (fields, showError) => {
    if (fields.new.value !== fields.again.value) return showError('again', 'The two new passwords differ.');
    const body = { old: fields.old.value, new: fields.new.value };
    const { ended } = await call('/account/password', { method: 'PUT', body });
    by('new-password').reset();
    others().forEach((row) => row.remove());
    showOthers();
    say(ended ? 'The password is set, and you are signed out everywhere else.' : 'The password is set.');
  },
);

showOthers();
