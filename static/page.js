// What all pages share: whose they are, what they say about themselves, and where they lead who is not signed in.

export const by = (id) => document.getElementById(id);

/** Whose page this is. */
export const { account } = document.querySelector('.bar').dataset;

/** Shows in the bar how the page's live connection is. */
export function showState(state, since) {
  by('pill').dataset.state = state;
  by('pill').textContent = state === 'offline' ? `offline since ${since.toLocaleTimeString()}` : state;
}

/** Tells what went wrong, until it is told that nothing is. */
export function notice(text) {
  by('notice').textContent = text;
  by('notice').hidden = !text;
}

/** Leads to the sign-in page, and from there back. */
export function signIn() {
  location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
}
