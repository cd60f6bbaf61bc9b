//! Which positions a scan looks at: walks of indexes.
//!
//! There is an index for each way by which an event gets to somebody: it is for everyone, for a user, on a topic. For one
//! reader they are merged entry by entry, so that many topics cost little more than one. The targets of a node, which
//! may be hundreds and change all the time, are each read up to the limit, and what was read is sorted. A node with
//! more targets than its limit walks the log itself instead.

use super::{Dialect, Scan};
use crate::event::{Priority, Selector};

/// How many entries of indexes a scan for a reader walks at most for each event that it may look at. An event on several
/// of the reader's topics has an entry for each.
const ENTRIES: u32 = 2;

/// Up to so many targets are merged: the reader, and as many topics as a request may name. Each is a part of the
/// statement.
const MAX_MERGED: usize = 33;

/// Of `scanned`: whether the walk stopped at one of its bounds.
pub(super) fn is_cut() -> String {
    format!("count(*) >= $5 or coalesce(sum(entries), 0) >= {ENTRIES} * $5")
}

/// Whether the log itself is walked, and each event asked whom it is for. It is where looking up each target once
/// would cost more than that. Never for one reader: they are far fewer than the events between theirs.
pub(super) fn is_by_position(scan: &Scan<'_>) -> bool {
    scan.reader.is_none() && (scan.is_of_all || targets(scan) > scan.limit as usize)
}

/// Whether all walks are merged. A statement for each set of a node's targets would be prepared for nothing.
fn is_merged(scan: &Scan<'_>) -> bool {
    scan.reader.is_some() && targets(scan) <= MAX_MERGED
}

fn targets(scan: &Scan<'_>) -> usize {
    scan.selector.users.len() + scan.selector.topics.len()
}

/// The priorities whose indexes are walked; `None`: all of them at once, by position.
pub(super) fn levels(scan: &Scan<'_>) -> Vec<Option<Priority>> {
    match (scan.priority, scan.selector.min_priority) {
        (Some(only), least) if least.is_none_or(|least| least <= only) => vec![Some(only)],
        (Some(_), _) => Vec::new(),
        (None, Some(least)) if least >= Priority::High => {
            Priority::ALL.into_iter().filter(|level| *level >= least).map(Some).collect()
        }
        (None, _) => vec![None],
    }
}

impl Dialect {
    /// Of `scanned`: how many events were looked at, as [`super::Scanned::looked_at`] counts them.
    pub(super) fn looked_at(&self) -> String {
        let Self { greatest, .. } = self;
        format!("{greatest}(count(*), cast(coalesce(sum(entries), 0) as bigint) / {ENTRIES})")
    }

    /// `scanned`: the positions that a scan looks at, each with how many entries of indexes stood there; with `top`, the
    /// reader's highest mark, if it is for unread ones.
    pub(super) fn scanned(&self, scan: &Scan<'_>) -> String {
        let order = if scan.newest_first { "desc" } else { "asc" };
        let Self { materialized, greatest, .. } = self;
        let (top, after) = match scan.unread_only {
            false => (String::new(), "$1".to_owned()),
            true => (
                format!(
                    "top as {materialized} (
                        select coalesce(max(position), 0) as position from read_marks where user_id = $6),"
                ),
                format!("{greatest}($1, (select position from top))"),
            ),
        };
        let (entries, positions) = if is_by_position(scan) {
            let range = format!("position > {after} and position <= $2");
            ("1", format!("select position from events where {range} order by position {order} limit $5"))
        } else {
            let walks = self.walks(scan, &after, order).join(" union all ");
            let merged =
                format!("select position from ({walks}) w order by position {order} limit {ENTRIES} * $5");
            if is_merged(scan) { ("count(*)", merged) } else { ("1", walks) }
        };
        format!(
            "{top} scanned as {materialized} (
                select position, {entries} as entries from ({positions}) found
                group by position order by position {order} limit $5
            )"
        )
    }

    /// A walk of one index for each way by which an event gets to the selector's targets. None leaves out what its index
    /// does not know: it might go on for ever.
    fn walks(&self, scan: &Scan<'_>, after: &str, order: &str) -> Vec<String> {
        let Selector { everyone, users, topics, .. } = scan.selector;
        let is_merged = is_merged(scan);
        let limited = |walk: &str| format!("{walk} order by t.position {order} limit $5");
        let whole = |walk: &str| match is_merged {
            true => (self.merged)(walk, order),
            false => format!("select position from ({}) b", limited(walk)),
        };
        let range = format!("t.position > {after} and t.position <= $2");
        let mut walks = Vec::new();
        for level in levels(scan) {
            let of_level = match level {
                // What is normal has no entry in the indexes by priority: most events are.
                None | Some(Priority::Normal) => String::new(),
                Some(other) => format!("and t.priority = {}", other as i16),
            };
            if *everyone {
                // That urgent is not normal, which the index by priority demands, SQLite does not conclude.
                let of_index = if of_level.is_empty() { "" } else { "and t.priority <> 1" };
                walks.push(whole(&format!(
                    "select t.position from events t where t.audience = 0 {of_level} {of_index} and {range}"
                )));
            }
            for (count, list, table, column) in
                [(users.len(), "$3", "event_users", "user_id"), (topics.len(), "$4", "event_topics", "topic")]
            {
                let walk = |target: &str| {
                    format!(
                        "select t.position from {table} t where t.{column} = {target} {of_level} and {range}"
                    )
                };
                match (count, is_merged) {
                    (0, _) => {}
                    // Walks of nothing keep the number of different statements small.
                    (_, true) => walks.extend(
                        (0..count.next_power_of_two())
                            .map(|place| whole(&walk(&(self.item_at)(list, place)))),
                    ),
                    (_, false) => {
                        let each =
                            self.each.replace("LIST", list).replace("TABLE", table).replace("COLUMN", column);
                        walks.push(each.replace("SUBSELECT", &limited(&walk(self.item))));
                    }
                }
            }
        }
        if scan.unread_only {
            // What the reader has marked unread below their highest mark.
            walks.push(whole(&format!(
                "select t.position from {} where t.user_id = $6 and not t.is_read
                    and t.position <= (select position from top) and t.position > $1 and t.position <= $2",
                self.unread_receipts
            )));
        }
        walks
    }
}
