//! What nodes share of who is on their topics: each has a table with a field for each topic, and they know of each
//! other by a set. A table lives for a while after it was last written or renewed, and with it what a killed node
//! wrote. Only its own node writes it: when topics change, and all of it after something was lost.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use serde::Deserialize;

use super::topic_users::{MAX_PLACES, User};
use crate::event::Topic;
use crate::ttl::{TableChange, Ttl, TtlError};

/// The set of the nodes that have a table.
const NODES: &str = "presence-nodes";
/// The most nodes that are read.
const MAX_NODES: usize = 256;
/// How many topics are read in one call, and in how many calls at once: what is held of them in memory meanwhile.
const TOPICS_AT_ONCE: usize = 64;
const READS_AT_ONCE: usize = 4;

/// Where a user is: the node, and their name.
pub(super) type Place = (String, String);

/// The table of this node.
pub(super) struct OwnTable {
    ttl: Ttl,
    node: String,
    lifetime: Duration,
    /// How often it was written since it was begun; 0 if it is to be begun anew.
    writes: u64,
}

impl OwnTable {
    pub(super) fn new(ttl: Ttl, node: &str, lifetime: Duration) -> Self {
        Self { ttl, node: node.to_owned(), lifetime, writes: 0 }
    }

    /// Whether it holds all that was written, as far as known.
    pub(super) fn is_complete(&self) -> bool {
        self.writes > 0
    }

    /// It will be begun anew.
    pub(super) fn forget(&mut self) {
        self.writes = 0;
    }

    /// Lets it live on, and notices whether it was lost.
    pub(super) async fn renew(&mut self) -> Result<(), TtlError> {
        let writes = std::mem::take(&mut self.writes);
        self.ttl.enter(NODES, std::slice::from_ref(&self.node), self.lifetime).await?;
        if writes > 0 && self.ttl.renew_table(&table(&self.node), self.lifetime).await? == writes {
            self.writes = writes;
        }
        Ok(())
    }

    /// Writes who is on these topics, or `all` if the table was lost or never written. After an error it is begun anew.
    pub(super) async fn write(
        &mut self,
        changed: impl Iterator<Item = (&Topic, Vec<User>)>,
        all: impl Iterator<Item = (&Topic, Vec<User>)>,
    ) -> Result<(), TtlError> {
        if self.is_complete() {
            self.write_fields(changed.map(field).collect()).await?;
        }
        if !self.is_complete() {
            self.write_fields(all.map(field).collect()).await?;
        }
        Ok(())
    }

    async fn write_fields(&mut self, changes: Vec<TableChange>) -> Result<(), TtlError> {
        if self.is_complete() && changes.is_empty() {
            return Ok(());
        }
        let writes = std::mem::take(&mut self.writes);
        let written = self.ttl.write_table(&table(&self.node), &changes, writes, self.lifetime).await?;
        self.writes = written.unwrap_or(0);
        Ok(())
    }
}

fn table(node: &str) -> String {
    format!("presence:{node}")
}

/// A topic's field, and what is to be in it.
fn field((topic, users): (&Topic, Vec<User>)) -> TableChange {
    let shown = &users[..users.len().min(MAX_PLACES)];
    let value = (!users.is_empty()).then(|| serde_json::to_vec(shown).unwrap_or_default());
    (topic.to_string(), value)
}

/// Who is on each of these topics, on all nodes but `except`; an error where that cannot be read.
pub(super) async fn read(
    ttl: &Ttl,
    topics: Vec<Topic>,
    except: Option<&str>,
) -> Vec<(Topic, Result<Vec<Place>, TtlError>)> {
    if topics.is_empty() {
        return Vec::new();
    }
    let failed = |topics: Vec<Topic>, error: TtlError| -> Vec<_> {
        topics.into_iter().map(|topic| (topic, Err(error.clone()))).collect()
    };
    let nodes: Vec<String> = match ttl.members(NODES, MAX_NODES).await {
        Ok(nodes) => nodes.into_iter().filter(|node| Some(&**node) != except).collect(),
        Err(error) => return failed(topics, error),
    };
    let parts = topics.chunks(TOPICS_AT_ONCE).map(<[Topic]>::to_vec);
    let reads = parts.map(async |topics| match read_topics(ttl, &nodes, &topics).await {
        Ok(places) => topics.into_iter().zip(places.into_iter().map(Ok)).collect(),
        Err(error) => failed(topics, error),
    });
    let read: Vec<Vec<_>> = stream::iter(reads).buffer_unordered(READS_AT_ONCE).collect().await;
    read.into_iter().flatten().collect()
}

/// The places on each topic, in the order given.
async fn read_topics(ttl: &Ttl, nodes: &[String], topics: &[Topic]) -> Result<Vec<Vec<Place>>, TtlError> {
    let tables: Vec<String> = nodes.iter().map(|node| table(node)).collect();
    let fields: Vec<String> = topics.iter().map(ToString::to_string).collect();
    let mut places = vec![Vec::new(); topics.len()];
    for (node, values) in nodes.iter().zip(ttl.read_tables(&tables, &fields).await?) {
        for (places, value) in places.iter_mut().zip(values) {
            let users = value.map_or_else(Vec::new, |value| users(&value));
            let free = MAX_PLACES.saturating_sub(places.len());
            places.extend(users.into_iter().take(free).map(|name| (node.clone(), name)));
        }
    }
    Ok(places)
}

/// The names in a field.
fn users(value: &[u8]) -> Vec<String> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    match serde_json::from_slice::<Vec<Named>>(value) {
        Ok(users) => users.into_iter().map(|user| user.name).collect(),
        Err(error) => {
            metrics::counter!("carillon_presence_unreadable_total").increment(1);
            tracing::debug!(%error, "who is present on another node cannot be read");
            Vec::new()
        }
    }
}
