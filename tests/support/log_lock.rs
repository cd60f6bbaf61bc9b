//! The log without its lock, for controls: what must not be missed is then missed.

use sqlx::Connection as _;

/// The line that makes positions become visible in the order in which they are drawn.
const LOCK: &str = "perform pg_advisory_xact_lock(7163384699738779502);";

/// The append as it is, but one in ten takes a moment to commit, long enough for others to overtake it; without the lock,
/// if so asked.
pub async fn slow_commits(url: &str, with_lock: bool) {
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    let definition: String =
        // The one that nodes call; the other is for older programs, and calls it.
        sqlx::query_scalar(
            "select pg_get_functiondef(oid) from pg_proc where proname = 'carillon_append_events'
             order by pronargs desc limit 1",
        )
            .fetch_one(&mut connection)
            .await
            .unwrap();
    let end = definition.rfind("end\n").unwrap();
    let (body, rest) = definition.split_at(end);
    let mut slowed =
        format!("{body}perform pg_sleep(case when random() < 0.1 then 0.03 else 0 end);\n{rest}");
    if !with_lock {
        assert_eq!(slowed.matches(LOCK).count(), 1);
        slowed = slowed.replace(LOCK, "");
    }
    sqlx::raw_sql(sqlx::AssertSqlSafe(slowed)).execute(&mut connection).await.unwrap();
}
