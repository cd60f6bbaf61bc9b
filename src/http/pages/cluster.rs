//! The cluster page: nodes, users, sessions and tokens.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use minijinja::context;
use minijinja::value::Serde;

use super::super::account::{LISTED_SESSIONS, ShownSession};
use super::super::admin::{DEFAULT_PAGE, tokens_after, users_after};
use super::super::problem::Problem;
use super::{Pages, Visitor};
use crate::account::Role;
use crate::cluster::Status;
use crate::store::Store;

/// `GET /cluster`
pub async fn show(
    visitor: Visitor,
    State(pages): State<Pages>,
    State(store): State<Store>,
    State(status): State<Arc<Status>>,
) -> Response {
    let read = async {
        let identity = visitor.signed_in(Role::Admin)?;
        let users = users_after(&store, "", DEFAULT_PAGE).await?;
        let tokens = tokens_after(&store, None, DEFAULT_PAGE).await?;
        let sessions = store.sessions(None, LISTED_SESSIONS).await?;
        Ok::<_, Problem>((identity, users, tokens, sessions))
    };
    let (identity, users, tokens, sessions) = match read.await {
        Ok(read) => read,
        Err(problem) => return pages.error(&problem),
    };
    let sessions: Vec<_> = sessions.iter().map(|s| ShownSession::of(s, identity.session)).collect();
    let values = context! {
        cluster => Serde(&*status.all().await),
        users => Serde(&users),
        tokens => Serde(&tokens),
        sessions => Serde(&sessions),
        most_sessions => LISTED_SESSIONS,
    };
    pages.page("cluster.html", "/cluster", &identity, values)
}
