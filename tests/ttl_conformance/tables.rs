//! Tables whose fields expire together.

use super::*;

fn sets(fields: &[(&str, &[u8])]) -> Vec<TableChange> {
    fields.iter().map(|(field, value)| ((*field).to_owned(), Some(value.to_vec()))).collect()
}

async fn read(ttl: &Ttl, table: &str, fields: &[&str]) -> Vec<Option<Vec<u8>>> {
    let tables = [table.to_owned()];
    let [values] = &ttl.read_tables(&tables, &names(fields)).await.unwrap()[..] else {
        panic!("not one table")
    };
    values.clone()
}

pub async fn fields_are_those_written_and_not_removed(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&patient());
    let (one, two, never) = (name("one"), name("two"), name("never"));
    let binary: Vec<u8> = (0..=255).chain([0, 13, 10, 255]).collect();
    let changes = sets(&[("a b", b"1"), ("\u{e9}\r\n", &binary), ("empty", b"")]);
    assert_eq!(ttl.write_table(&one, &changes, 0, LONG).await.unwrap(), Some(1));
    assert_eq!(ttl.write_table(&two, &sets(&[("a b", b"2")]), 0, LONG).await.unwrap(), Some(1));
    let mut changes = sets(&[("a b", b"3")]);
    changes.extend([("empty".to_owned(), None), ("never".to_owned(), None)]);
    assert_eq!(ttl.clone().write_table(&one, &changes, 1, LONG).await.unwrap(), Some(2));
    assert_eq!(ttl.write_table(&one, &[], 2, LONG).await.unwrap(), Some(3));
    // In the order of what was asked for, of both.
    let tables = [two.clone(), never, one];
    let read = ttl.read_tables(&tables, &names(&["\u{e9}\r\n", "a b", "empty", "never"])).await.unwrap();
    let nothing = vec![None; 4];
    assert_eq!(read[0], [None, Some(b"2".to_vec()), None, None]);
    assert_eq!(read[1], nothing);
    assert_eq!(read[2], [Some(binary), Some(b"3".to_vec()), None, None]);
    assert!(ttl.read_tables(&[], &names(&["a"])).await.unwrap().is_empty());
    assert_eq!(ttl.read_tables(&[two], &[]).await.unwrap(), [vec![]]);
}

pub async fn whoever_alone_writes_a_table_learns_that_it_was_lost(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&patient());
    let table = name("table");
    assert_eq!(ttl.renew_table(&table, LONG).await.unwrap(), 0);
    assert_eq!(ttl.write_table(&table, &sets(&[("a", b"1"), ("b", b"1")]), 0, LONG).await.unwrap(), Some(1));
    assert_eq!(ttl.write_table(&table, &sets(&[("a", b"2")]), 1, LONG).await.unwrap(), Some(2));
    assert_eq!(ttl.renew_table(&table, LONG).await.unwrap(), 2);
    // It ends, and all but what is written then is lost.
    ttl.write_table(&table, &[], 2, SHORT).await.unwrap();
    until("it ends", async || read(&ttl, &table, &["b"]).await == [None]).await;
    assert_eq!(ttl.renew_table(&table, LONG).await.unwrap(), 0);
    assert_eq!(ttl.write_table(&table, &sets(&[("c", b"3")]), 3, LONG).await.unwrap(), None);
    assert_eq!(ttl.write_table(&table, &sets(&[("d", b"4")]), 0, LONG).await.unwrap(), Some(1));
    assert_eq!(read(&ttl, &table, &["a", "b", "c", "d"]).await, [None, None, None, Some(b"4".to_vec())]);
    // Somebody else writes it.
    assert_eq!(ttl.write_table(&table, &[], 1, LONG).await.unwrap(), Some(2));
    assert_eq!(ttl.write_table(&table, &[], 1, LONG).await.unwrap(), None);
}

pub async fn a_table_ends_as_a_whole_and_writing_or_renewing_it_begins_a_new_life(
    open: impl Fn(&TtlLimits) -> Ttl,
) {
    let ttl = open(&patient());
    let [ending, written, renewed, none] = ["ending", "written", "renewed", "none"].map(name);
    for table in [&ending, &written, &renewed] {
        ttl.write_table(table, &sets(&[("a", b"1"), ("b", b"1")]), 0, SHORT * 5).await.unwrap();
    }
    let end = Instant::now() + SHORT * 5 + LATE;
    ttl.write_table(&none, &sets(&[("a", b"1")]), 0, Duration::ZERO).await.unwrap();
    ttl.write_table(&written, &sets(&[("b", b"2")]), 1, Duration::MAX).await.unwrap();
    assert_eq!(ttl.renew_table(&renewed, LONG).await.unwrap(), 1);
    until("it ends", async || {
        let asked = Instant::now();
        let values = read(&ttl, &ending, &["a", "b"]).await;
        assert!(values[0].is_none() || asked <= end, "read after its time");
        values == [None, None]
    })
    .await;
    let value = |text: &[u8]| Some(text.to_vec());
    assert_eq!(read(&ttl, &written, &["a", "b"]).await, [value(b"1"), value(b"2")]);
    assert_eq!(read(&ttl, &renewed, &["a", "b"]).await, [value(b"1"), value(b"1")]);
    assert_eq!(read(&ttl, &none, &["a"]).await, [None]);
    assert_eq!(ttl.renew_table(&renewed, SHORT).await.unwrap(), 1);
    until("it ends", async || read(&ttl, &renewed, &["a", "b"]).await == [None, None]).await;
}

pub async fn a_large_table_is_written_in_parts(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&patient());
    let table = name("table");
    let fields: Vec<String> = (0..2_500).map(|number| format!("field {number}")).collect();
    let change = |field: &String| (field.clone(), Some(field.clone().into_bytes()));
    let writes =
        ttl.write_table(&table, &fields.iter().map(change).collect::<Vec<_>>(), 0, LONG).await.unwrap();
    let writes = writes.expect("nothing was lost");
    assert_eq!(ttl.renew_table(&table, LONG).await.unwrap(), writes);
    let values = ttl.read_tables(std::slice::from_ref(&table), &fields).await.unwrap().remove(0);
    assert!(values.iter().zip(&fields).all(|(value, field)| value.as_deref() == Some(field.as_bytes())));
    let large: Vec<TableChange> = (0..5).map(|number| (number.to_string(), Some(vec![7; 700_000]))).collect();
    let writes = ttl.write_table(&table, &large, writes, LONG).await.unwrap().expect("nothing was lost");
    assert!(read(&ttl, &table, &["0", "4"]).await.into_iter().all(|value| value.unwrap().len() == 700_000));
    let gone: Vec<TableChange> = fields.iter().map(|field| (field.clone(), None)).collect();
    ttl.write_table(&table, &gone, writes, LONG).await.unwrap().expect("nothing was lost");
    let values = ttl.read_tables(std::slice::from_ref(&table), &fields).await.unwrap().remove(0);
    assert!(values.iter().all(Option::is_none));
    assert_eq!(read(&ttl, &table, &["4"]).await.len(), 1);
}

pub async fn tables_meet_neither_keys_nor_sets_nor_expirations(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&patient());
    let prefix = name("");
    let mut expirations = listening(&ttl, &prefix).await;
    let table = format!("{prefix}table");
    ttl.put(&table, b"a key", LONG).await.unwrap();
    ttl.enter(&table, &names(&["member"]), LONG).await.unwrap();
    ttl.take(&table, 1, LONG).await.unwrap();
    ttl.write_table(&table, &sets(&[("a", b"1")]), 0, SHORT).await.unwrap();
    until("it ends", async || read(&ttl, &table, &["a"]).await == [None]).await;
    assert_eq!(ttl.get(&table).await.unwrap().as_deref(), Some(&b"a key"[..]));
    assert_eq!(ttl.members(&table, 9).await.unwrap(), names(&["member"]));
    ttl.put(&format!("{prefix}last"), b"", SHORT * 10).await.unwrap();
    assert_eq!(heard_until("last", &mut expirations).await, BTreeSet::from(["last".into()]));
    ttl.remove(&table).await.unwrap();
}

/// A node that is killed leaves nothing behind.
#[tokio::test]
async fn a_table_in_redis_ends_by_itself() {
    let server = RedisServer::start(&[]).await;
    let ttl = Ttl::open(&server.url(""), &patient()).unwrap();
    ttl.write_table("table", &sets(&[("a", b"1")]), 0, SHORT).await.unwrap();
    until("the key is gone", async || server.ask(&["DBSIZE"]).await.contains("int(0)")).await;
    // Written after its end, it has a time again.
    ttl.write_table("table", &sets(&[("a", b"1")]), 1, SHORT).await.unwrap();
    until("the key is gone", async || server.ask(&["DBSIZE"]).await.contains("int(0)")).await;
}
