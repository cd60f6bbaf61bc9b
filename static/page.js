// What the scripts of all pages share: the account, the connection's state, the notice, the way to the sign-in page.

export const by = (id) => document.getElementById(id);

/** The name of the user who is signed in on this page. */
export const { account } = document.querySelector('.bar').dataset;

/** Shows the state of the page's live connection in the bar. */
export function showState(state, since) {
  by('pill').dataset.state = state;
  by('pill').textContent = state === 'offline' ? `offline since ${since.toLocaleTimeString()}` : state;
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
