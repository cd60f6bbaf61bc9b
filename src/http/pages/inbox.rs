//! The inbox page.

use axum::extract::State;
use axum::response::Response;
use minijinja::context;

use super::super::inbox::page;
use super::super::params::Params;
use super::super::problem::Problem;
use super::{Pages, Visitor};
use crate::event::Audience;
use crate::event::frame::rfc3339;
use crate::store::{InboxEntry, Reader, Store};
use crate::topic_rules::TopicRules;

/// `GET /`: the inbox.
pub async fn show(
    Visitor(identity): Visitor,
    State(pages): State<Pages>,
    State(store): State<Store>,
    State(rules): State<TopicRules>,
    params: Params,
) -> Response {
    let reader = Reader { user: identity.user.id, topics: Vec::new() };
    let read = async {
        let page = page(&store, &rules, &identity, &params).await?;
        let counts = store.unread_counts(&reader, 1_000).await?;
        Ok::<_, Problem>((page, counts.iter().map(|(_, count)| count).sum::<i64>()))
    };
    let (page, unread) = match read.await {
        Ok(read) => read,
        Err(problem) => return pages.error(&problem),
    };
    let filter = context! {
        type => params.one("type").ok().flatten().unwrap_or_default(),
        min_priority => params.one("min_priority").ok().flatten().unwrap_or_default(),
        unread => params.flag("unread").unwrap_or_default(),
    };
    let values = context! {
        cursor => page.cursor,
        unread,
        next => page.next,
        filter,
        entries => page.entries.iter().map(entry).collect::<Vec<_>>(),
    };
    pages.page("inbox.html", "/", &identity, values)
}

fn entry(entry: &InboxEntry) -> minijinja::Value {
    let event = &entry.event;
    let (to, topic) = match &event.audience {
        Audience::Everyone => ("everyone", None),
        Audience::Users(_) => ("you", None),
        Audience::Topic(topic) => ("topic", Some(topic.as_str())),
    };
    let value: Option<serde_json::Value> = serde_json::from_str(&event.data).ok();
    let data =
        value.and_then(|v| serde_json::to_string_pretty(&v).ok()).unwrap_or_else(|| event.data.clone());
    context! {
        id => event.id.to_string(),
        position => event.position,
        type => event.event_type.as_str(),
        priority => event.priority.as_str(),
        to, topic, data,
        created_at => rfc3339(event.created_at),
        expires_at => event.expires_at.map(rfc3339),
        read_at => entry.read_at.map(rfc3339),
    }
}
