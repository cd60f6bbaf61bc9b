//! The account page.

use axum::extract::State;
use axum::response::Response;
use minijinja::context;
use minijinja::value::Serde;

use super::super::account::{LISTED_SESSIONS, MAX_TOKENS, ShownSession, ShownToken};
use super::super::problem::Problem;
use super::{Pages, Visitor};
use crate::account::Role;
use crate::event::rfc3339;
use crate::store::Store;

/// `GET /account`
pub async fn show(visitor: Visitor, State(pages): State<Pages>, State(store): State<Store>) -> Response {
    let read = async {
        let identity = visitor.signed_in(Role::Listener)?;
        let user = identity.user.id;
        let sessions = store.sessions(Some(user), LISTED_SESSIONS).await?;
        let tokens = store.valid_tokens(Some(user), None, 2 * MAX_TOKENS).await?;
        Ok::<_, Problem>((identity, sessions, tokens))
    };
    let (identity, sessions, tokens) = match read.await {
        Ok(read) => read,
        Err(problem) => return pages.error(&problem),
    };
    let sessions: Vec<_> = sessions.iter().map(|s| ShownSession::of(s, identity.session)).collect();
    let tokens: Vec<_> = tokens.iter().map(|token| ShownToken::from(token).of_the_reader()).collect();
    let values = context! {
        created_at => rfc3339(identity.user.created_at),
        sessions => Serde(&sessions),
        tokens => Serde(&tokens),
    };
    pages.page("account.html", "/account", &identity, values)
}
