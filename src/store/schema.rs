//! What a program and a database's schema are to each other. Pure.

use std::collections::BTreeMap;

use sqlx::migrate::Migrator;

/// The schema found in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// Nothing there yet.
    Empty,
    /// Fewer migrations than this program knows.
    Older,
    /// What this program needs.
    Current,
    /// More migrations than this program knows, which say that it may use them.
    Newer,
    /// Migrations this program does not know, or altered ones.
    Unknown,
}

impl Schema {
    /// Whether this program may read and write it.
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Current | Self::Newer)
    }
}

/// Reads which program may use the newest schema it is in.
pub(super) const COMPATIBLE_FROM: &str =
    "select compatible_from from compatibility where version = (select max(version) from _sqlx_migrations)";

/// A migration that a database says to have: version, checksum, and whether it is complete.
pub(super) type Applied = (i64, Vec<u8>, bool);

/// Compares what was applied with what this program brings. `compatible_from` is the oldest program (by its newest
/// migration) that the newest of the applied migrations names, if it names any.
pub(super) fn judge(migrations: &Migrator, applied: &[Applied], compatible_from: Option<i64>) -> Schema {
    let known: BTreeMap<i64, &[u8]> = migrations.iter().map(|m| (m.version, &*m.checksum)).collect();
    let newest = known.last_key_value().map_or(0, |(version, _)| *version);
    // Later ones may be under way: whether this program may run beside them, they say.
    let (ours, later): (Vec<_>, Vec<_>) = applied.iter().partition(|(version, ..)| *version <= newest);
    let is_known = |(version, checksum, is_complete): &&Applied| {
        *is_complete && known.get(version).is_some_and(|ours| *ours == &**checksum)
    };
    match (ours.len(), later.is_empty()) {
        _ if !ours.iter().all(is_known) => Schema::Unknown,
        (0, true) => Schema::Empty,
        (some, true) if some < known.len() => Schema::Older,
        (_, true) => Schema::Current,
        (all, false) if all == known.len() && compatible_from.is_some_and(|least| least <= newest) => {
            Schema::Newer
        }
        (_, false) => Schema::Unknown,
    }
}
