//! Tables that expire, in process.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{LONGEST, TableChange};

/// All tables. The caller gives the time.
pub(super) struct Tables {
    tables: HashMap<String, Table>,
    /// The most fields of all tables together.
    max_fields: usize,
}

struct Table {
    fields: HashMap<String, Vec<u8>>,
    writes: u64,
    ends: Instant,
}

impl Tables {
    pub(super) fn new(max_fields: usize) -> Self {
        Self { tables: HashMap::new(), max_fields }
    }

    pub(super) fn write(
        &mut self,
        now: Instant,
        name: &str,
        changes: &[TableChange],
        writes: u64,
        lifetime: Duration,
    ) -> Option<u64> {
        self.drop_ended(now);
        if writes == 0 {
            self.tables.remove(name);
        }
        let mut held: usize = self.tables.values().map(|table| table.fields.len()).sum();
        let begun = || Table { fields: HashMap::new(), writes: 0, ends: now };
        let table = self.tables.entry(name.to_owned()).or_insert_with(begun);
        for (field, value) in changes {
            held -= usize::from(table.fields.remove(field).is_some());
            if let Some(value) = value
                && held < self.max_fields
            {
                table.fields.insert(field.clone(), value.clone());
                held += 1;
            }
        }
        table.writes += 1;
        table.ends = now + lifetime.min(LONGEST);
        (table.writes == writes + 1).then_some(table.writes)
    }

    pub(super) fn renew(&mut self, now: Instant, name: &str, lifetime: Duration) -> u64 {
        self.drop_ended(now);
        let Some(table) = self.tables.get_mut(name) else { return 0 };
        table.ends = now + lifetime.min(LONGEST);
        table.writes
    }

    pub(super) fn read(
        &self,
        now: Instant,
        names: &[String],
        fields: &[String],
    ) -> Vec<Vec<Option<Vec<u8>>>> {
        let read = |name: &String| {
            let table = self.tables.get(name).filter(|table| table.ends > now);
            fields.iter().map(|field| table?.fields.get(field).cloned()).collect()
        };
        names.iter().map(read).collect()
    }

    fn drop_ended(&mut self, now: Instant) {
        self.tables.retain(|_, table| table.ends > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(fields: &[&str]) -> Vec<TableChange> {
        fields.iter().map(|field| ((*field).to_owned(), Some(b"value".to_vec()))).collect()
    }

    #[test]
    fn all_tables_together_stay_within_their_bound() {
        let (now, lifetime) = (Instant::now(), Duration::from_secs(10));
        let mut tables = Tables::new(3);
        assert_eq!(tables.write(now, "a", &sets(&["1", "2"]), 0, lifetime), Some(1));
        assert_eq!(tables.write(now, "b", &sets(&["1", "2"]), 0, lifetime), Some(1));
        let held = |tables: &Tables| tables.tables.values().map(|table| table.fields.len()).sum::<usize>();
        assert_eq!(held(&tables), 3);
        assert_eq!(tables.write(now, "a", &sets(&["1", "2"]), 1, lifetime), Some(2));
        assert_eq!(tables.write(now, "a", &[("1".into(), None)], 2, lifetime), Some(3));
        assert_eq!(tables.write(now, "b", &sets(&["1", "2"]), 1, lifetime), Some(2));
        assert_eq!((held(&tables), tables.tables["b"].fields.len()), (3, 2));
        assert_eq!(tables.write(now + lifetime, "c", &sets(&["1"]), 0, lifetime), Some(1));
        assert_eq!((held(&tables), tables.tables.len()), (1, 1), "what has ended is given up");
    }
}
