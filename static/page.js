// What the scripts of all pages share: the account, the connection's state, the notice, the way to the sign-in page.

import { t } from './texts.js';

export const by = (id) => document.getElementById(id);

/** The name of the user who is signed in on this page. */
export const { account } = document.querySelector('.bar').dataset;

const STATES = {
  connecting: t('state.connecting'),
  'catching up': t('state.catching_up'),
  live: t('state.live'),
  paused: t('state.paused'),
  refused: t('state.refused'),
  'signed out': t('state.signed_out'),
  'not permitted': t('state.not_permitted'),
  'not connected': t('state.not_connected'),
};

/** Shows the state of the page's live connection in the bar. */
export function showState(state, since) {
  by('pill').dataset.state = state;
  by('pill').textContent = state === 'offline' ? t('state.offline', { time: since.toLocaleTimeString() }) : STATES[state];
}

/** Shows what went wrong; an empty text hides it. */
export function notice(text) {
  by('notice').textContent = text;
  by('notice').hidden = !text;
}

/** Goes to the sign-in page, which leads back here. */
export function signIn() {
  location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
}
