// The account page: the user's own sessions, tokens and password.

import { call } from './api.js';
import { attempt, confirmed, newRow, onEnd, onSubmit, removeRow, say, showSecret } from './manage.js';
import { by, signIn } from './page.js';
import { t } from './texts.js';

const text = (row, of) => row.querySelector(`[data-of=${of}]`).textContent;
const others = () => [...by('sessions').children].filter((row) => !('current' in row.dataset));

function showOthers() {
  by('end-others').hidden = others().length === 0;
}

onEnd(
  by('sessions'),
  (row) => ('current' in row.dataset ? t('account.end_here') : t('account.end_there', { browser: text(row, 'browser') })),
  (row) => `/account/sessions/${row.dataset.id}`,
  (row) => {
    if ('current' in row.dataset) return signIn();
    removeRow(row);
    showOthers();
    say(t('account.ended'));
  },
);

by('end-others').addEventListener('click', async ({ currentTarget: button }) => {
  if (!(await confirmed(t('account.end_others.question'), t('account.end_others')))) return;
  await attempt(button, async () => {
    const { ended } = await call('/account/sessions', { method: 'DELETE' });
    others().forEach((row) => row.remove());
    say(t('account.others_ended', { count: ended }));
  });
  showOthers();
  by('sessions-title').focus();
});

onEnd(
  by('tokens'),
  (row) => t('account.token.end', { name: text(row, 'name') }),
  (row) => `/account/tokens/${row.dataset.id}`,
  (row) => {
    removeRow(row);
    say(t('token.revoked'));
  },
);

onSubmit(
  by('new-token'),
  {
    name: t('account.token.field.name'),
    scopes: t('account.token.field.scopes'),
    days: t('account.token.field.days'),
  },
  async (fields, showError) => {
    const scopes = ['listen', 'publish'].filter((scope) => fields[scope].checked);
    if (!scopes.length) return showError('listen', t('account.token.no_scope'));
    const days = fields.days.value ? Number(fields.days.value) : null;
    const body = { name: fields.name.value, scopes, days };
    const made = await call('/account/tokens', { method: 'POST', body });
    const texts = { ...made, scopes: made.scopes.join(', '), user: '' };
    by('tokens').prepend(newRow(by('token-blank'), made.id, texts));
    by('new-token').reset();
    say(t('account.token.made'));
    showSecret(t('account.token.secret', { name: made.name }), made.secret);
  },
);

onSubmit(
  by('new-password'),
  { old: t('account.password.field.old'), new: t('account.password.field.new') },
  async (fields, showError) => {
    if (fields.new.value !== fields.again.value) return showError('again', t('account.password.differ'));
    const body = { old: fields.old.value, new: fields.new.value };
    const { ended } = await call('/account/password', { method: 'PUT', body });
    by('new-password').reset();
    others().forEach((row) => row.remove());
    showOthers();
    say(ended ? t('account.password.set_and_ended') : t('account.password.set'));
  },
);

showOthers();
