//! Reading the log by a [`Selector`]: the one place where its statement is made, for both databases.
//!
//! A scan walks the indexes of those whom the selector names in the order of positions and stops after so many
//! ([`walk`]). Of these it gives the events that fit, and says how far it came. So it costs no more than its limit,
//! however few of the events fit: what no index knows (type, retraction, expiry, single receipts, text, normal
//! priority) is asked only of the positions that were found.

mod walk;

use std::fmt::Write as _;

use uuid::Uuid;

use super::Reader;
use crate::event::{Position, Priority, Selector, UserId};

/// Any type and priority.
static ANY: Selector =
    Selector { everyone: true, users: Vec::new(), topics: Vec::new(), types: Vec::new(), min_priority: None };

/// What is read of the log.
#[derive(Debug, Clone)]
pub(super) struct Scan<'a> {
    /// Whom events are for, their types and their least priority.
    pub(super) selector: &'a Selector,
    /// Whoever events are for.
    pub(super) is_of_all: bool,
    /// For this user: what they have read, and of audiences only what is theirs. `None`: for a node, audiences whole.
    pub(super) reader: Option<UserId>,
    /// Above this position.
    pub(super) after: Position,
    /// Up to this position.
    pub(super) up_to: Position,
    /// From the highest position down.
    pub(super) newest_first: bool,
    /// Only this priority.
    pub(super) priority: Option<Priority>,
    /// Only what the reader has not read; it begins above their highest mark.
    pub(super) unread_only: bool,
    /// Also what has expired.
    pub(super) include_expired: bool,
    /// Only with this text in type or data.
    pub(super) text: Option<&'a str>,
    /// Looks at no more than so many events, and for a reader walks no more than twice as many entries of indexes.
    pub(super) limit: u32,
    /// Gives no more than so many of them.
    pub(super) most: u32,
    /// With a text, looks at no more than so many bytes of data and the event that passes them.
    pub(super) bytes: i64,
}

impl<'a> Scan<'a> {
    /// Everything in `(after, up_to]`, oldest first, looking at `limit` at most.
    pub(super) fn of(selector: &'a Selector, after: Position, up_to: Position, limit: u32) -> Self {
        Self {
            selector,
            is_of_all: false,
            reader: None,
            after,
            up_to,
            newest_first: false,
            priority: None,
            unread_only: false,
            include_expired: false,
            text: None,
            limit,
            most: limit,
            bytes: 0,
        }
    }

    /// The same of everything, whoever it is for.
    pub(super) fn of_all(after: Position, up_to: Position, limit: u32) -> Self {
        Self { is_of_all: true, ..Self::of(&ANY, after, up_to, limit) }
    }

    /// What `reader` has not read, the newest first: counts `most`, looks at `limit`.
    pub(super) fn unread(reader: &'a Reader, most: u32, limit: u32) -> Self {
        let all = Self::of(&reader.selector, 0, Position::MAX, limit);
        Self { reader: Some(reader.user), unread_only: true, newest_first: true, most, ..all }
    }

    /// Whether there is anything to walk: the selector names somebody, and its priorities are not left out.
    pub(super) fn has_branches(&self) -> bool {
        let Selector { everyone, users, topics, .. } = self.selector;
        (*everyone || !users.is_empty() || !topics.is_empty()) && !walk::levels(self).is_empty()
    }

    /// The least priority, as a number.
    pub(super) fn min_priority(&self) -> i16 {
        self.selector.min_priority.unwrap_or(Priority::Low) as i16
    }
}

/// What a scan came to.
#[derive(Debug)]
pub(super) struct Scanned<T> {
    /// What fits, in the order of the scan.
    pub(super) found: Vec<T>,
    /// How many events it looked at. One on several of a reader's targets may count as several, so that all scans of a
    /// page together are bounded in entries of indexes, too.
    pub(super) looked_at: i64,
    /// Of a search: how many bytes of data these have.
    pub(super) bytes: i64,
    /// The last position it looked at.
    pub(super) last: Option<Position>,
    /// Whether it stopped there at one of its bounds: behind it there may be more.
    pub(super) is_cut: bool,
    /// Everything at or below it had been removed by retention.
    pub(super) floor: Option<Position>,
    /// The id of the event at the position above which the scan began. `None` for scans from the newest down.
    pub(super) after_id: Option<Uuid>,
    /// The id of the event up to which the scan is complete, also `None` for those.
    pub(super) end_id: Option<Uuid>,
}

impl<T> Default for Scanned<T> {
    fn default() -> Self {
        Self {
            found: Vec::new(),
            looked_at: 0,
            bytes: 0,
            last: None,
            is_cut: false,
            floor: None,
            after_id: None,
            end_id: None,
        }
    }
}

/// How the databases differ. Parameters are the same: `$1` after, `$2` up to, `$3` users, `$4` topics, `$5` limit, `$6`
/// reader, `$7` types, `$8` least priority, `$9` also expired, `$10` the most found, `$11` text, `$12` bytes.
pub(super) struct Dialect {
    /// The database's clock in milliseconds.
    pub(super) now: &'static str,
    /// The greatest of several values.
    pub(super) greatest: &'static str,
    /// Before a statement whose rows are made once.
    pub(super) materialized: &'static str,
    /// For each `k` of a list, a limited subselect: `LIST` and `SUBSELECT` stand for both, `TABLE` and `COLUMN` for what
    /// it selects from, and by what.
    pub(super) each: &'static str,
    /// The event `e` of each `s.position`, looked up one after the other: otherwise a condition on events may be asked of
    /// the whole log first.
    pub(super) event_of_each: &'static str,
    /// An item of the list in `each`.
    pub(super) item: &'static str,
    /// The item of a list at a place from 0, null if the list ends before.
    pub(super) item_at: fn(&str, usize) -> String,
    /// A walk of one index, in this order, as it stands in a union of them that is merged.
    pub(super) merged: fn(&str, &str) -> String,
    /// The receipts `t`, read by the index of those that say unread.
    pub(super) unread_receipts: &'static str,
    /// Whether a column's value is in a list.
    pub(super) is_in: fn(&str, &str) -> String,
    /// Before a column whose values are to be compared, not looked up in an index one by one.
    pub(super) not_looked_up: &'static str,
    /// Whether the list of types is empty.
    pub(super) no_types: &'static str,
    /// Gathers a column into a JSON list; null or empty of nothing.
    pub(super) json_list: &'static str,
    /// Makes a JSON list of one value.
    pub(super) json_one: &'static str,
    /// Whether `e.type` or `e.data` holds the text. The letters A to Z are the only ones whose case does not matter,
    /// whatever the database's language: so it is in both databases and in pages.
    pub(super) holds_text: &'static str,
}

/// What an event's row is read from, besides `users` and `topics`.
pub(super) const EVENT_COLUMNS: &str = "e.position, e.id, e.type, e.priority, e.audience, e.topic, e.data, \
    e.created_at, e.expires_at, e.keep_after_read, e.publisher";

/// `column` of the receipt of `reader` for event `e`, or null. Asked for each event by itself: joined, all of the
/// reader's receipts may be read. A range of one position, since only the index by users serves that well: in the index
/// over positions stand the receipts of everybody who read the event.
fn receipt(reader: &str, column: &str) -> String {
    format!(
        "(select {column} from receipts r
            where r.user_id = {reader} and r.position >= e.position and r.position <= e.position)"
    )
}

/// When `reader` read event `e`. What they said about the event itself outweighs the marks; of those the lowest at or
/// above it is the one that came first.
fn read_at(reader: &str) -> String {
    format!(
        "nullif(coalesce({receipt}, (
            select m.at from read_marks m where m.user_id = {reader} and m.position >= e.position
            order by m.position limit 1)), -1)",
        receipt = receipt(reader, "case when r.is_read then r.at else -1 end"),
    )
}

impl Dialect {
    /// The statement of a scan: at least one row, each with `looked_at`, `bytes`, `last_position`, `is_cut` and `floor`,
    /// and of a scan from the oldest up `after_id` and `end_id`; one for each event that fits, with [`EVENT_COLUMNS`],
    /// `users`, `topics` and `read_at`.
    pub(super) fn scan(&self, scan: &Scan<'_>) -> String {
        let (order, last) = if scan.newest_first { ("desc", "min") } else { ("asc", "max") };
        let Self { materialized, .. } = self;
        let (users, topics) = self.audience(scan.reader.map(|_| "$6"));
        let read_at = match scan.reader {
            Some(_) if !scan.unread_only => read_at("$6"),
            _ => "null".to_owned(),
        };
        let (looked, within_bytes, bytes) = match scan.text {
            None => ("scanned", String::new(), "0"),
            Some(_) => ("looked", format!("{},", self.within_bytes(order)), "coalesce(sum(bytes), 0)"),
        };
        let ends = match scan.newest_first {
            true => "",
            // In the same statement as the events: between two of them the log may become another.
            false => {
                ", (select b.id from events b where b.position = $1) as after_id,
                (select b.id from events b
                    where b.position = case when counted.is_cut then counted.last_position else $2 end) as end_id"
            }
        };
        format!(
            "with {scanned}, {within_bytes}
            counted as {materialized} (
                select {looked_at} as looked_at, cast({bytes} as bigint) as bytes, {last}(position) as last_position,
                    {is_cut} or count(*) < (select count(*) from scanned) as is_cut
                from {looked}
            ),
            edge as {materialized} (select counted.*, (select floor from log_state) as floor{ends} from counted)
            select edge.*, w.*
            from edge left join (
                select {EVENT_COLUMNS}, {users} as users, {topics} as topics, e.read_at
                from (
                    select e.*, {read_at} as read_at from {looked} s {event}
                ) e
                where {wanted}
                order by e.position {order} limit $10
            ) w on true
            order by w.position {order}",
            scanned = self.scanned(scan),
            looked_at = self.looked_at(),
            is_cut = walk::is_cut(),
            event = self.event_of_each,
            wanted = self.wanted(scan),
        )
    }

    /// The statement that counts what is unread by type, most first: at least one row, each with `is_cut`; one for each
    /// type with `type` and `unread`.
    pub(super) fn unread_counts(&self, scan: &Scan<'_>) -> String {
        let Self { materialized, .. } = self;
        format!(
            "with {scanned},
            found as {materialized} (
                select e.position, e.type from scanned s {event} where {wanted}
                order by e.position desc limit $10 + 1
            )
            select edge.is_cut, w.*
            from (
                select count(*) > $10 or (select {is_cut} from scanned) as is_cut from found
            ) edge left join (
                select f.type, count(*) as unread
                from (select type from found order by position desc limit $10) f
                group by f.type
            ) w on true
            order by w.unread desc, w.type",
            scanned = self.scanned(scan),
            is_cut = walk::is_cut(),
            event = self.event_of_each,
            wanted = self.wanted(scan),
        )
    }

    /// Of the positions in `scanned`, those whose data a search may look at.
    fn within_bytes(&self, order: &str) -> String {
        format!(
            "looked as {} (
                select position, entries, bytes from (
                    select position, entries, bytes, sum(bytes) over (order by position {order}) as total
                    from (
                        select s.position, s.entries, coalesce((
                            select octet_length(e.data) from events e where e.position = s.position), 0) as bytes
                        from scanned s
                    ) lengths
                ) sized
                where total - bytes < $12
            )",
            self.materialized
        )
    }

    /// Whether event `e` is what a scan wants. Of all that a reader has it has `read_at`.
    fn wanted(&self, scan: &Scan<'_>) -> String {
        let Self { now, no_types, .. } = self;
        let mut wanted = format!(
            "e.retracted_at is null and ($9 and e.emptied_at is null or e.expires_at is null or e.expires_at > (select {now}))
                and ({no_types} or {is_type}) and e.priority >= $8",
            is_type = (self.is_in)("e.type", "$7"),
        );
        if let Some(only) = scan.priority {
            let _ = write!(wanted, " and e.priority = {}", only as i16);
        }
        if scan.unread_only {
            // Below the mark stand only those that the reader has marked unread, whomever they are for.
            let _ = write!(
                wanted,
                " and (e.position > (select position from top) or {targets})
                    and not coalesce({is_read}, e.position <= (select position from top))",
                targets = self.targets(scan.selector),
                is_read = receipt("$6", "r.is_read"),
            );
        } else if scan.reader.is_some() {
            let _ = write!(
                wanted,
                " and (e.keep_after_read is null or e.read_at is null
                    or e.read_at + e.keep_after_read > (select {now}))"
            );
        }
        if scan.text.is_some() {
            let _ = write!(wanted, " and {}", self.holds_text);
        }
        if walk::is_by_position(scan) && !scan.is_of_all {
            let _ = write!(wanted, " and ({})", self.targets(scan.selector));
        }
        wanted
    }

    /// Whether event `e` is for one of the selector's targets.
    fn targets(&self, selector: &Selector) -> String {
        let is_in = |column, list| (self.is_in)(&format!("{}{column}", self.not_looked_up), list);
        let mut ways = vec!["false".to_owned()];
        if selector.everyone {
            ways.push("e.audience = 0".into());
        }
        if !selector.users.is_empty() {
            ways.push(format!(
                "exists (select 1 from event_users u where u.position = e.position and {})",
                is_in("u.user_id", "$3")
            ));
        }
        if !selector.topics.is_empty() {
            ways.push(format!(
                "exists (select 1 from event_topics t where t.position = e.position and {})",
                is_in("t.topic", "$4")
            ));
        }
        ways.join(" or ")
    }

    /// The targets of event `e`, as JSON lists of users and of topics: all, or those that are the reader's.
    fn audience(&self, reader: Option<&str>) -> (String, String) {
        let Self { json_list, json_one, .. } = self;
        let which = reader.map_or(String::new(), |_| format!("and {}", (self.is_in)("t.topic", "$4")));
        let topics = format!(
            "case when e.audience = 1 then (
                select {json_list}(t.topic) from event_topics t where t.position = e.position {which}) end"
        );
        let users = match reader {
            None => format!(
                "case when e.audience = 1 then (
                    select {json_list}(u.user_id) from event_users u where u.position = e.position) end"
            ),
            Some(reader) => format!(
                "case when e.audience = 1 and exists (
                    select 1 from event_users u where u.user_id = {reader} and u.position = e.position)
                    then {json_one}({reader}) end"
            ),
        };
        (users, topics)
    }

    /// The statement for the event `e` that meets a condition, its audience whole.
    pub(super) fn event(&self, condition: &str) -> String {
        let (users, topics) = self.audience(None);
        format!(
            "select {EVENT_COLUMNS}, {users} as users, {topics} as topics from events e where {condition}"
        )
    }

    /// The statement for the event with id `$1` if it is for user `$2` or on any topic; with `$3` also if it has left
    /// them after reading. Of the audience, all topics.
    pub(super) fn inbox_event(&self) -> String {
        let (users, topics) = (self.audience(Some("$2")).0, self.audience(None).1);
        format!(
            "select {EVENT_COLUMNS}, {users} as users, {topics} as topics, e.read_at
            from (
                select e.*, {read_at} as read_at
                from events e where e.id = $1
            ) e
            where e.retracted_at is null and e.emptied_at is null
                and (e.audience <> 1
                    or exists (select 1 from event_users u where u.user_id = $2 and u.position = e.position)
                    or exists (select 1 from event_topics t where t.position = e.position))
                and ($3 or e.read_at is null or e.keep_after_read is null
                    or e.read_at + e.keep_after_read > (select {now}))",
            read_at = read_at("$2"),
            now = self.now,
        )
    }
}
