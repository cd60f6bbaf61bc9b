//! What a program and a database's schema are to each other. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// The files of a folder of `migrations/`, each with its name. Listed rather than found by sqlx's macro, which has every
/// driver compiled a second time for the compiler's own use; a test compares the list with the folder.
macro_rules! migrations {
    ($folder:literal: $($file:literal),+ $(,)?) => {
        &[$(($file, include_str!(concat!("../../migrations/", $folder, "/", $file)))),+]
    };
}

/// File name and SQL of each migration for Postgres.
pub(super) const POSTGRES: &[(&str, &str)] = migrations!("postgres":
    "0001_log.sql",
    "0002_accounts.sql",
    "0003_sessions.sql",
    "0004_read_up_to.sql",
    "0005_compatibility.sql",
    "0006_users.sql",
    "0007_targets.sql",
    "0008_keys.sql",
    "0009_append.sql",
    "0010_urgent_for_everyone.sql",
    "0011_urgent_for_users.sql",
    "0012_expiring.sql",
    "0013_unread.sql",
    "0014_forgotten.sql",
    "0015_without_the_constraint.sql",
    "0016_same_history.sql",
    "0017_marks_of_new_users.sql",
    "0018_requests.sql",
    "0019_marks.sql",
);

/// The same for SQLite.
pub(super) const SQLITE: &[(&str, &str)] = migrations!("sqlite":
    "0001_log.sql",
    "0002_accounts.sql",
    "0003_sessions.sql",
    "0004_read_up_to.sql",
    "0005_compatibility.sql",
    "0006_users.sql",
    "0007_targets.sql",
    "0008_same_history.sql",
    "0009_marks_of_new_users.sql",
    "0010_retention.sql",
);

/// Reads files named `VERSION_DESCRIPTION.sql`, as sqlx names what it notes of them in the database.
pub(super) fn migrator(files: &'static [(&'static str, &'static str)]) -> Migrator {
    let migration = |(name, sql): &(&'static str, &'static str)| {
        let (version, description) = name.trim_end_matches(".sql").split_once('_').unwrap_or((name, ""));
        Migration::new(
            version.parse().expect("a migration's file begins with its number"),
            Cow::Owned(description.replace('_', " ")),
            MigrationType::Simple,
            sql.into_sql_str(),
            sql.starts_with("-- no-transaction"),
        )
    };
    Migrator::with_migrations(files.iter().map(migration).collect())
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_listed() {
        for (folder, listed) in [("postgres", POSTGRES), ("sqlite", SQLITE)] {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder);
            let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name());
            let mut files: Vec<_> = files.map(|name| name.into_string().unwrap()).collect();
            files.sort();
            assert_eq!(listed.iter().map(|(name, _)| *name).collect::<Vec<_>>(), files);
        }
    }

    #[test]
    fn a_migration_is_noted_as_before() {
        let migrator = migrator(POSTGRES);
        let fourth = migrator.iter().nth(3).unwrap();
        assert_eq!((fourth.version, &*fourth.description, fourth.no_tx), (4, "read up to", false));
        // SHA-384 of the file, by which databases know it.
        assert_eq!(fourth.checksum.len(), 48);
    }
}
