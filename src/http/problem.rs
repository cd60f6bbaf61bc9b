//! Errors as responses: JSON problems (RFC 9457), with the field at fault. The only place that maps errors.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::event::Invalid;
use crate::event::draft::TOO_LARGE;
use crate::identity::AccountError;
use crate::publishing::{PublishError, RETRY_AFTER};
use crate::store::StoreError;
use crate::ttl::TtlError;

/// A problem, RFC 9457 §3; `field` is our extension member.
#[derive(Debug, Serialize)]
pub struct Problem {
    title: String,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip)]
    pause: Option<Duration>,
}

impl Problem {
    /// A problem with this status and one sentence about it.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        Self { title, status: status.as_u16(), detail: detail.into(), field: None, pause: None }
    }

    /// Nobody is signed in.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "sign in, or send a valid token")
    }

    /// Somebody is signed in, and not who the request says.
    pub fn somebody_else() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "another account is signed in").about("account")
    }

    /// Signed in, but not allowed.
    pub fn forbidden(detail: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// By a token, what only somebody who is signed in may do.
    pub fn in_person() -> Self {
        Self::forbidden("a token may not manage accounts: sign in")
    }

    /// Not there, or not theirs.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is no such thing here")
    }

    /// Too much at once; there may be room again after `pause`.
    pub fn busy(detail: &str, pause: Duration) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).after(pause)
    }

    /// Ours. What it was is in the log.
    pub fn defect() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "this node has a defect; its log says where")
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// One sentence about it.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The header that says when to try again, if that is known.
    pub fn retry_after(&self) -> HeaderMap {
        let pause = self.pause.map(|pause| HeaderValue::from(pause.as_secs().max(1)));
        pause.map(|pause| (header::RETRY_AFTER, pause)).into_iter().collect()
    }

    /// The same, about the field at fault.
    pub fn about(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    fn after(mut self, pause: Duration) -> Self {
        self.pause = Some(pause);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_string(&self).unwrap_or_default();
        let mut response = (self.status(), self.retry_after(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        let status = if invalid.message.starts_with(TOO_LARGE) {
            StatusCode::PAYLOAD_TOO_LARGE
        } else {
            StatusCode::BAD_REQUEST
        };
        Self::new(status, invalid.to_string()).about(invalid.field)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => {
                tracing::warn!(%error, "a request failed");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "the store is not reachable; try again")
                    .after(RETRY_AFTER)
            }
            StoreError::SharedSessions => {
                tracing::warn!(%error, "a request failed");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "the store is not set up as it must be; try again")
                    .after(RETRY_AFTER)
            }
            StoreError::Taken(what) => Self::new(StatusCode::CONFLICT, format!("{what} is taken")),
            StoreError::KeyReused(_) => PublishError::KeyReused.into(),
            StoreError::Form(_) => Self::new(StatusCode::CONFLICT, error.to_string()),
            StoreError::Unusable(_) | StoreError::Failed(_) => {
                tracing::error!(%error, "a request failed");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the store refused; the log of this node says why",
                )
            }
        }
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Invalid(invalid) => invalid.into(),
            PublishError::UnknownUser { ref field, .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()).about(field.clone())
            }
            PublishError::KeyReused => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()).about("Idempotency-Key")
            }
            PublishError::TooManyRecipients { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()).about("events")
            }
            PublishError::Overloaded => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()).after(RETRY_AFTER)
            }
            PublishError::Store(error) => error.into(),
        }
    }
}

impl From<TtlError> for Problem {
    fn from(error: TtlError) -> Self {
        tracing::warn!(%error, "a request failed");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "who is there is not known now; try again")
            .after(RETRY_AFTER)
    }
}

impl From<AccountError> for Problem {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::Invalid(invalid) => invalid.into(),
            AccountError::WrongPassword => Self::new(StatusCode::UNAUTHORIZED, error.to_string()),
            AccountError::TooManyAttempts(pause) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, error.to_string()).after(pause)
            }
            AccountError::Store(error) => error.into(),
        }
    }
}
