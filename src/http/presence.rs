//! Who is on a topic.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::auth::ListenerCaller;
use super::params::Params;
use super::problem::Problem;
use crate::delivery::presence::{Presence, Present};
use crate::event::Invalid;
use crate::identity::topic_rules::TopicRules;

/// `GET /api/v1/presence`
pub async fn show(
    ListenerCaller(identity): ListenerCaller,
    State(presence): State<Arc<Presence>>,
    State(rules): State<TopicRules>,
    params: Params,
) -> Result<Json<Present>, Problem> {
    let reader = params.reader(&identity, &rules)?;
    let [topic] = &reader.selector.topics[..] else {
        return Err(Invalid::new("topic", "must stand once").into());
    };
    Ok(Json(presence.present(topic).await?))
}
