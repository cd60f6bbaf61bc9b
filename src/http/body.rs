//! Bodies of requests and ids in addresses: whatever is wrong with them is answered as a problem.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::problem::Problem;
use crate::event::Invalid;

/// A JSON body, whatever `Content-Type` calls it.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<S, T> FromRequest<S> for JsonBody<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|refused| Problem::new(refused.status(), refused.body_text()))?;
        let read = serde_json::from_slice(&bytes).map(Self);
        read.map_err(|error| Invalid::new("body", format!("is not the JSON wanted here: {error}")).into())
    }
}

/// What stands in the address at the places of its route; what cannot stand there is nothing that exists.
#[derive(Debug)]
pub struct PathOf<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for PathOf<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(read)| Self(read)).map_err(|_| Problem::not_found())
    }
}

/// The answer to a change: 204 if it was made, 404 if there was nothing to change.
pub fn done(was_done: bool) -> Result<StatusCode, Problem> {
    if was_done { Ok(StatusCode::NO_CONTENT) } else { Err(Problem::not_found()) }
}

/// The id of an event in the address; what is not an id is the id of nothing.
#[derive(Debug)]
pub struct EventId(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for EventId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id = Path::from_request_parts(parts, state).await;
        id.map(|Path(id)| Self(id)).map_err(|_| Problem::not_found())
    }
}
