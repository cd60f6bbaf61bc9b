//! The inbox page.

use axum::extract::State;
use axum::response::Response;
use minijinja::context;

use super::super::inbox::page;
use super::super::params::Params;
use super::super::problem::Problem;
use super::summary::Summary;
use super::{Pages, Visitor};
use crate::event::{Audience, rfc3339};
use crate::identity::topic_rules::TopicRules;
use crate::reading::Inbox;
use crate::store::InboxEntry;

/// `GET /`: the inbox.
pub async fn show(
    Visitor(identity): Visitor,
    State(pages): State<Pages>,
    State(inbox): State<Inbox>,
    State(rules): State<TopicRules>,
    params: Params,
) -> Response {
    let read = async {
        let page = page(&inbox, &rules, &identity, &params).await?;
        // Of all that the page listens to, whatever it is filtered by.
        let reader = params.reader(&identity, &rules)?;
        Ok::<_, Problem>((page, inbox.unread_counts(&reader).await?))
    };
    let (page, counts) = match read.await {
        Ok(read) => read,
        Err(problem) => return pages.error(&problem),
    };
    // Checked by reading the page.
    let given = |name: &str| params.all(name).into_iter().map(str::to_owned).collect::<Vec<String>>();
    let filter = context! {
        types => given("type"),
        topics => given("topic"),
        min_priority => given("min_priority").pop(),
        unread => params.flag("unread").unwrap_or_default(),
        q => given("q").pop(),
    };
    let values = context! {
        cursor => page.cursor,
        unread => counts.unread,
        more_unread => counts.more,
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
        Audience::Of { topics, .. } => match topics.first() {
            Some(topic) => ("topic", Some(topic.as_str())),
            None => ("you", None),
        },
    };
    let summary = Summary::of(event.event_type.as_str(), &event.data);
    context! {
        id => event.id.to_string(),
        position => event.position,
        type => event.event_type.as_str(),
        priority => event.priority.as_str(),
        headline => summary.headline,
        text => summary.text,
        level => summary.level,
        data => &event.data,
        to, topic,
        created_at => rfc3339(event.created_at),
        expires_at => event.expires_at.map(rfc3339),
        read_at => entry.read_at.map(rfc3339),
    }
}
