//! The inbox: what a user has, and what of it is read.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::auth::ListenerCaller;
use super::body::{EventId, JsonBody};
use super::params::Params;
use super::problem::Problem;
use crate::accounts::Identity;
use crate::bus::message::{Notice, user_channel};
use crate::event::frame::{Shown, rfc3339};
use crate::event::{Audience, Cursor, Invalid, Position, Priority, UserId};
use crate::node::Node;
use crate::store::{Found, InboxEntry, InboxOrder, InboxQuery, Store};
use crate::topic_rules::TopicRules;

/// How many entries a page has when nothing is said.
pub const DEFAULT_PAGE: u32 = 50;
/// The most entries of a page.
const MAX_PAGE: u32 = 200;
/// The most entries looked through for a page that is searched for a text.
pub const MAX_SEARCHED: u32 = 2_000;
/// The longest text to search for, in characters.
pub const MAX_TEXT: usize = 100;
/// The most types counted apart.
const MAX_COUNTED_TYPES: u32 = 200;

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

/// A page of an inbox, and what to ask for next.
pub struct InboxPage {
    /// The entries.
    pub entries: Vec<InboxEntry>,
    /// Ask for the page after this one with it.
    pub next: Option<String>,
    /// A stream from here continues the page without a gap.
    pub cursor: String,
}

/// Reads a page as the parameters ask. The cursor is taken first: what comes in between is in both.
pub async fn page(
    store: &Store,
    rules: &TopicRules,
    caller: &Identity,
    params: &Params,
) -> Result<InboxPage, Problem> {
    let reader = params.reader(caller, rules)?;
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
        filter: params.filter()?,
        unread_only: params.flag("unread")?,
        topics_only: !reader.topics.is_empty(),
        include_expired: params.flag("include_expired")?,
        order,
        after: params.one("after")?.map(read_key).transpose()?,
        limit: limit + 1,
    };
    let text = search_text(params)?;
    let state = store.log_state().await?;
    let found = match text {
        None => Found { entries: store.inbox(&reader, &query).await?, looked_up_to: None },
        Some(text) => store.search_inbox(&reader, &query, text, MAX_SEARCHED).await?,
    };
    let mut entries = found.entries;
    let has_more = entries.len() > limit as usize;
    entries.truncate(limit as usize);
    let last = entries.last().filter(|_| has_more).map(|e| (e.event.priority, e.event.position));
    let next = last.or(found.looked_up_to).map(|(priority, position)| format!("{priority}-{position}"));
    Ok(InboxPage { entries, next, cursor: Cursor::at(state.epoch, state.head).to_string() })
}

/// `q`: what an entry's type or data must hold.
pub fn search_text(params: &Params) -> Result<Option<&str>, Problem> {
    let text = params.one("q")?;
    // JSON holds control characters only escaped; and Postgres takes no text with a zero in it.
    if text.is_some_and(|text| text.chars().count() > MAX_TEXT || text.chars().any(char::is_control)) {
        return Err(
            Invalid::new("q", format!("must be 1 to {MAX_TEXT} characters, none of them a control")).into()
        );
    }
    Ok(text)
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
    State(store): State<Store>,
    State(rules): State<TopicRules>,
    params: Params,
) -> Result<Response, Problem> {
    let page = page(&store, &rules, &identity, &params).await?;
    let entries = page.entries.iter().map(ShownEntry::from).collect();
    Ok(Json(ShownPage { entries, next: page.next.as_deref(), cursor: &page.cursor }).into_response())
}

/// `GET /api/v1/inbox/{id}`
pub async fn show(
    ListenerCaller(identity): ListenerCaller,
    State(store): State<Store>,
    State(rules): State<TopicRules>,
    EventId(id): EventId,
) -> Result<Response, Problem> {
    let entry = find(&store, &rules, &identity, id, false).await?;
    Ok(Json(ShownEntry::from(&entry)).into_response())
}

/// `GET /api/v1/inbox/counts`
pub async fn counts(
    ListenerCaller(identity): ListenerCaller,
    State(store): State<Store>,
    State(rules): State<TopicRules>,
    params: Params,
) -> Result<Json<Value>, Problem> {
    let reader = params.reader(&identity, &rules)?;
    let counts = store.unread_counts(&reader, MAX_COUNTED_TYPES).await?;
    let unread: i64 = counts.iter().map(|(_, count)| count).sum();
    let by_type: serde_json::Map<String, Value> = counts
        .into_iter()
        .map(|(event_type, count)| (event_type.as_str().to_owned(), json!(count)))
        .collect();
    Ok(Json(json!({ "unread": unread, "by_type": by_type })))
}

/// `PUT /api/v1/inbox/{id}/read`
pub async fn read(
    ListenerCaller(identity): ListenerCaller,
    State(store): State<Store>,
    State(node): State<Arc<Node>>,
    State(rules): State<TopicRules>,
    EventId(id): EventId,
) -> Result<StatusCode, Problem> {
    let position = find(&store, &rules, &identity, id, false).await?.event.position;
    mark(&store, &node, identity.user.id, position, true).await
}

/// `DELETE /api/v1/inbox/{id}/read`
pub async fn unread(
    ListenerCaller(identity): ListenerCaller,
    State(store): State<Store>,
    State(node): State<Arc<Node>>,
    State(rules): State<TopicRules>,
    EventId(id): EventId,
) -> Result<StatusCode, Problem> {
    // Reading can be taken back also of what left the user by it.
    let position = find(&store, &rules, &identity, id, true).await?.event.position;
    mark(&store, &node, identity.user.id, position, false).await
}

async fn mark(
    store: &Store,
    node: &Node,
    user: UserId,
    position: Position,
    read: bool,
) -> Result<StatusCode, Problem> {
    if store.mark(user, position, read).await? {
        node.tell(user_channel(user), Notice::Read { user, position, read }).await;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// An event that is the caller's. What is on a topic that they may not read is not there for them. With `also_left`
/// it may have left them after reading.
async fn find(
    store: &Store,
    rules: &TopicRules,
    caller: &Identity,
    id: Uuid,
    also_left: bool,
) -> Result<InboxEntry, Problem> {
    let may_read = |entry: &InboxEntry| match &entry.event.audience {
        Audience::Topic(topic) => rules.may_read(&caller.user, topic),
        Audience::Everyone | Audience::Users(_) => true,
    };
    let entry = store.inbox_event(caller.user.id, id, also_left).await?;
    entry.filter(may_read).ok_or_else(Problem::not_found)
}

/// The body of [`read_up_to`].
#[derive(Deserialize)]
pub struct UpTo {
    position: Position,
}

/// `POST /api/v1/inbox/read-up-to`
pub async fn read_up_to(
    ListenerCaller(identity): ListenerCaller,
    State(store): State<Store>,
    State(node): State<Arc<Node>>,
    JsonBody(UpTo { position: up_to }): JsonBody<UpTo>,
) -> Result<Json<Value>, Problem> {
    if up_to < 0 {
        return Err(Invalid::new("position", "must be 0 or more").into());
    }
    let user = identity.user.id;
    let number = store.mark_read_up_to(user, up_to).await?;
    node.tell(user_channel(user), Notice::ReadUpTo { user, up_to }).await;
    Ok(Json(json!({ "number": number })))
}

/// `DELETE /api/v1/inbox/read-up-to/{number}`: takes it back, while it is the newest.
pub async fn take_back_read_up_to(
    ListenerCaller(identity): ListenerCaller,
    State(store): State<Store>,
    State(node): State<Arc<Node>>,
    number: Result<Path<i64>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let Ok(Path(number)) = number else { return Err(Problem::not_found()) };
    let user = identity.user.id;
    if !store.take_back_read_up_to(user, number).await? {
        return Err(Problem::not_found());
    }
    node.tell(user_channel(user), Notice::ReadUpToTakenBack { user }).await;
    Ok(StatusCode::NO_CONTENT)
}
