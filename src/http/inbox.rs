//! The inbox: what a user has, and what of it is read.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::auth::ListenerCaller;
use super::body::{EventId, JsonBody, PathOf, done};
use super::params::Params;
use super::problem::Problem;
use crate::event::{Invalid, Position, Priority, Shown, rfc3339};
use crate::identity::Identity;
use crate::identity::topic_rules::TopicRules;
use crate::reading::{Inbox, InboxPage};
use crate::store::{InboxEntry, InboxOrder, InboxQuery, UnreadCounts};

/// How many entries a page has when nothing is said.
pub const DEFAULT_PAGE: u32 = 50;
/// The most entries of a page.
const MAX_PAGE: u32 = 200;
/// The longest text to search for, in characters.
pub const MAX_TEXT: usize = 100;

#[derive(Serialize)]
struct ShownEntry<'a> {
    #[serde(flatten)]
    event: Shown<'a>,
    read_at: Option<String>,
}

impl<'a> From<&'a InboxEntry> for ShownEntry<'a> {
    fn from(entry: &'a InboxEntry) -> Self {
        Self { event: Shown::from(&entry.event), read_at: entry.read_at.map(rfc3339) }
    }
}

/// Serialised as it is and never as a [`Value`], which would change the publisher's data: numbers lose digits,
/// members are sorted, and what is nested deeply is no value at all.
#[derive(Serialize)]
struct ShownPage<'a> {
    entries: Vec<ShownEntry<'a>>,
    next: Option<&'a str>,
    cursor: &'a str,
}

/// Reads a page as the parameters ask.
pub async fn page(
    inbox: &Inbox,
    rules: &TopicRules,
    caller: &Identity,
    params: &Params,
) -> Result<InboxPage, Problem> {
    let mut reader = params.reader(caller, rules)?;
    if !reader.selector.topics.is_empty() {
        // Of these topics alone.
        (reader.selector.everyone, reader.selector.users) = (false, Vec::new());
    }
    let limit = params.parsed("limit", "must be a whole number")?.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Invalid::new("limit", format!("must be 1 to {MAX_PAGE}")).into());
    }
    let order = match params.one("order")? {
        None | Some("newest") => InboxOrder::Newest,
        Some("priority") => InboxOrder::Priority,
        Some(_) => return Err(Invalid::new("order", "must be newest or priority").into()),
    };
    let query = InboxQuery {
        unread_only: params.flag("unread")?,
        include_expired: params.flag("include_expired")?,
        text: search_text(params)?,
        order,
        after: params.one("after")?.map(read_key).transpose()?,
        limit,
        ..InboxQuery::default()
    };
    Ok(inbox.page(&reader, &query).await?)
}

/// `q`: what an entry's type or data must hold.
fn search_text(params: &Params) -> Result<Option<String>, Problem> {
    let text = params.one("q")?;
    // JSON holds control characters only escaped; and Postgres takes no text with a zero in it.
    if text.is_some_and(|text| text.chars().count() > MAX_TEXT || text.chars().any(char::is_control)) {
        return Err(
            Invalid::new("q", format!("must be 1 to {MAX_TEXT} characters, none of them a control")).into()
        );
    }
    Ok(text.map(str::to_owned))
}

/// Where a page continues: opaque to clients.
fn read_key(text: &str) -> Result<(Priority, Position), Problem> {
    let parts = text.split_once('-').and_then(|(priority, position)| {
        Some((priority.parse().ok()?, position.parse().ok().filter(|p| *p >= 0)?))
    });
    parts.ok_or_else(|| Invalid::new("after", "must be the 'next' of an earlier page").into())
}

/// `GET /api/v1/inbox`
pub async fn list(
    ListenerCaller(identity): ListenerCaller,
    State(inbox): State<Inbox>,
    State(rules): State<TopicRules>,
    params: Params,
) -> Result<Response, Problem> {
    let page = page(&inbox, &rules, &identity, &params).await?;
    let entries = page.entries.iter().map(ShownEntry::from).collect();
    Ok(Json(ShownPage { entries, next: page.next.as_deref(), cursor: &page.cursor }).into_response())
}

/// `GET /api/v1/inbox/{id}`
pub async fn show(
    ListenerCaller(identity): ListenerCaller,
    State(inbox): State<Inbox>,
    EventId(id): EventId,
) -> Result<Response, Problem> {
    let entry = inbox.entry(&identity.user, id).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(ShownEntry::from(&entry)).into_response())
}

/// `GET /api/v1/inbox/counts`
pub async fn counts(
    ListenerCaller(identity): ListenerCaller,
    State(inbox): State<Inbox>,
    State(rules): State<TopicRules>,
    params: Params,
) -> Result<Json<Value>, Problem> {
    let reader = params.reader(&identity, &rules)?;
    let UnreadCounts { unread, more, by_type } = inbox.unread_counts(&reader).await?;
    let by_type: serde_json::Map<String, Value> =
        by_type.into_iter().map(|(name, count)| (name.as_str().to_owned(), json!(count))).collect();
    Ok(Json(json!({ "unread": unread, "more": more, "by_type": by_type })))
}

/// `PUT /api/v1/inbox/{id}/read`
pub async fn read(
    ListenerCaller(identity): ListenerCaller,
    State(inbox): State<Inbox>,
    EventId(id): EventId,
) -> Result<StatusCode, Problem> {
    done(inbox.mark_read(&identity.user, id).await?)
}

/// `DELETE /api/v1/inbox/{id}/read`
pub async fn unread(
    ListenerCaller(identity): ListenerCaller,
    State(inbox): State<Inbox>,
    EventId(id): EventId,
) -> Result<StatusCode, Problem> {
    done(inbox.mark_unread(&identity.user, id).await?)
}

/// The body of [`read_up_to`].
#[derive(Deserialize)]
pub struct UpTo {
    position: Position,
}

/// `POST /api/v1/inbox/read-up-to`
pub async fn read_up_to(
    ListenerCaller(identity): ListenerCaller,
    State(inbox): State<Inbox>,
    JsonBody(UpTo { position }): JsonBody<UpTo>,
) -> Result<Json<Value>, Problem> {
    if position < 0 {
        return Err(Invalid::new("position", "must be 0 or more").into());
    }
    let number = inbox.mark_read_up_to(identity.user.id, position).await?;
    Ok(Json(json!({ "number": number })))
}

/// `DELETE /api/v1/inbox/read-up-to/{number}`: takes it back, while it is the newest.
pub async fn take_back_read_up_to(
    ListenerCaller(identity): ListenerCaller,
    State(inbox): State<Inbox>,
    PathOf(number): PathOf<i64>,
) -> Result<StatusCode, Problem> {
    done(inbox.take_back_read_up_to(identity.user.id, number).await?)
}
