//! Publishing and taking back.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use serde_json::value::RawValue;

use super::Settings;
use super::auth::PublisherCaller;
use super::body::{EventId, JsonBody, done};
use super::problem::Problem;
use crate::account::Role;
use crate::bus::Notifier;
use crate::event::{Draft, Fingerprint, Invalid, Recipients, Topic};
use crate::identity::Identity;
use crate::identity::topic_rules::TopicRules;
use crate::publishing::{Key, PublishError, Published, Publisher, take_back};
use crate::store::Store;

/// `POST /api/v1/events`
pub async fn publish(
    PublisherCaller(identity): PublisherCaller,
    State(publisher): State<Publisher>,
    State(rules): State<TopicRules>,
    State(settings): State<Settings>,
    headers: HeaderMap,
    JsonBody(json): JsonBody<Box<RawValue>>,
) -> Result<impl IntoResponse, Problem> {
    let draft = Draft::read(&json, "", settings.max_data_bytes)?;
    check_permitted(&identity, &rules, &draft, "")?;
    let published = publish_all(&identity, &publisher, &headers, &[&json], vec![draft]).await?;
    Ok((StatusCode::CREATED, Json(published.into_iter().next())))
}

/// `POST /api/v1/events/batch`
pub async fn publish_batch(
    PublisherCaller(identity): PublisherCaller,
    State(publisher): State<Publisher>,
    State(rules): State<TopicRules>,
    State(settings): State<Settings>,
    headers: HeaderMap,
    JsonBody(json): JsonBody<Box<RawValue>>,
) -> Result<impl IntoResponse, Problem> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Batch<'a> {
        #[serde(borrow)]
        events: Vec<&'a RawValue>,
    }
    let batch: Batch<'_> = serde_json::from_str(json.get())
        .map_err(|_| Invalid::new("events", "the body must be {\"events\": [one event, another, …]}"))?;
    if batch.events.is_empty() || batch.events.len() > settings.max_batch {
        return Err(Invalid::new("events", format!("must hold 1 to {} events", settings.max_batch)).into());
    }
    let read = |(index, event): (usize, &&RawValue)| {
        let at = format!("events[{index}].");
        let draft = Draft::read(event, &at, settings.max_data_bytes)?;
        check_permitted(&identity, &rules, &draft, &at)?;
        Ok(draft)
    };
    let drafts = batch.events.iter().enumerate().map(read).collect::<Result<Vec<_>, Problem>>()?;
    let published =
        publish_all(&identity, &publisher, &headers, &batch.events, drafts).await.map_err(in_batch)?;
    Ok((StatusCode::CREATED, Json(serde_json::json!({ "events": published }))))
}

/// That the caller may publish to whom `draft` is for. `at` goes before the field's name, as in [`Draft::read`].
fn check_permitted(caller: &Identity, rules: &TopicRules, draft: &Draft, at: &str) -> Result<(), Problem> {
    let (may, field, whom) = match &draft.to {
        Recipients::Topic(name) => {
            let topic: Topic = name.parse()?;
            (rules.may_write(&caller.user, &topic), "to.topic", format!("you may not publish to {topic}"))
        }
        Recipients::Everyone | Recipients::User(_) | Recipients::Users(_) => {
            (caller.may_publish(), "to", "publishing to users needs the role publisher".to_owned())
        }
    };
    if may {
        return Ok(());
    }
    let field = format!("{at}{field}");
    Err(Problem::forbidden(&format!("{field}: {whom}")).about(field))
}

async fn publish_all(
    identity: &Identity,
    publisher: &Publisher,
    headers: &HeaderMap,
    events: &[&RawValue],
    drafts: Vec<Draft>,
) -> Result<Vec<Published>, PublishError> {
    let key = headers.get("idempotency-key").map(|value| {
        let wrong = |_| Invalid::new("Idempotency-Key", "must be 1 to 128 visible ASCII characters");
        let name = value.to_str().map_err(wrong)?.to_owned();
        Ok::<_, Invalid>(Key { name, request: Some(Fingerprint::of(events)?) })
    });
    publisher.publish(identity.user.id, drafts, key.transpose()?).await
}

/// The error with the event's place in the batch before the field's name, as [`Draft::read`] gives it.
fn in_batch(error: PublishError) -> PublishError {
    match error {
        PublishError::UnknownUser { index, field, name } => {
            PublishError::UnknownUser { index, field: format!("events[{index}].{field}"), name }
        }
        other => other,
    }
}

/// `DELETE /api/v1/events/{id}`: by its publisher or an admin.
pub async fn retract(
    PublisherCaller(identity): PublisherCaller,
    State(store): State<Store>,
    State(notifier): State<Notifier>,
    EventId(id): EventId,
) -> Result<StatusCode, Problem> {
    let publisher = (identity.user.role < Role::Admin).then_some(identity.user.id);
    done(take_back(&store, &notifier, id, publisher).await?)
}
