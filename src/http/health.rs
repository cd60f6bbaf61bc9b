//! Whether this node lives, whether it should get listeners, and its metrics.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;

use crate::cluster::{Readiness, ServerError};

/// `GET /healthz`: the process answers.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: 200 when this node delivers, 503 with the reasons otherwise. While the server behind the bus or the
/// expiring keys has an outage, its last error and when it began (RFC 3339, by the database's clock).
pub async fn readyz(State(readiness): State<Arc<Readiness>>) -> impl IntoResponse {
    let reasons = readiness.unready();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut answer = json!({ "ready": reasons.is_empty(), "reasons": reasons });
    for (name, error) in [("bus_error", readiness.bus_error()), ("ttl_error", readiness.ttl_error())] {
        if let Some(ServerError { error, since }) = error {
            answer[name] = error.into();
            answer[format!("{name}_since")] = since.into();
        }
    }
    (status, Json(answer))
}

/// The routes of the metrics listener.
pub fn metrics_router(recorder: PrometheusHandle) -> axum::Router {
    axum::Router::new().route("/metrics", get(move || std::future::ready(recorder.render())))
}
