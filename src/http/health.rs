//! Whether this node lives, whether it should get listeners, and its metrics.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;

use crate::cluster::Readiness;

/// `GET /healthz`: the process answers.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: 200 when this node delivers, 503 with the reasons otherwise.
pub async fn readyz(State(readiness): State<Arc<Readiness>>) -> impl IntoResponse {
    let reasons = readiness.unready();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": reasons.is_empty(), "reasons": reasons })))
}

/// The routes of the metrics listener.
pub fn metrics_router(recorder: PrometheusHandle) -> axum::Router {
    axum::Router::new().route("/metrics", get(move || std::future::ready(recorder.render())))
}
