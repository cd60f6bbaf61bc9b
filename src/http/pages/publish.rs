//! The page to publish with.

use axum::extract::State;
use axum::response::Response;
use minijinja::context;

use super::{Pages, Visitor};
use crate::account::Role;

/// `GET /publish`: for publishers.
pub async fn show(visitor: Visitor, State(pages): State<Pages>) -> Response {
    match visitor.with_role(Role::Publisher) {
        Ok(identity) => pages.page("publish.html", "/publish", &identity, context! {}),
        Err(problem) => pages.error(&problem),
    }
}
