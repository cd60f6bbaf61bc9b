//! A failover that lost commits leaves a ledger of two histories: positions were given out twice. This makes one of it,
//! by what both servers' logs say: what was lost is taken out, and positions of the second history stand behind all of
//! the first.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use crate::checker::digest_in;
use crate::ledger::{Attempt, Ledger, Outcome, What};

/// Where the second history's positions begin.
const SECOND: i64 = 1 << 40;

/// What a failover kept and lost.
#[derive(Debug)]
pub struct Failover {
    /// The last position that both logs have.
    head: i64,
    /// The ids of what only the first log had, and their positions.
    lost: HashMap<String, i64>,
}

impl Failover {
    /// Of the log at `old`, whose head was `head` when its standby took over.
    pub async fn look(old: &str, head: i64) -> Self {
        let mut connection = PgConnection::connect(old).await.unwrap();
        let rows: Vec<(String, i64)> =
            sqlx::query_as("select id::text, position from events where position > $1")
                .bind(head)
                .fetch_all(&mut connection)
                .await
                .unwrap();
        connection.close().await.unwrap();
        Self { head, lost: rows.into_iter().collect() }
    }

    /// How many events were lost.
    pub fn lost(&self) -> usize {
        self.lost.len()
    }

    /// How many of them were acknowledged.
    pub fn lost_acknowledged(&self, ledger: &Ledger) -> usize {
        let is_lost = |attempt: &&Attempt| matches!(&attempt.outcome, Outcome::Acked { id, .. } if self.lost.contains_key(id));
        ledger.attempts.iter().filter(is_lost).count()
    }

    /// Makes one history of a ledger.
    pub fn rewrite(&self, ledger: &mut Ledger) {
        for attempt in &mut ledger.attempts {
            let Outcome::Acked { id, position } = &mut attempt.outcome else { continue };
            if self.lost.contains_key(id) {
                attempt.outcome = Outcome::Unknown { why: "lost in the failover".to_owned() };
            } else {
                *position = self.place(*position);
            }
        }
        for heard in &mut ledger.heard {
            match &mut heard.what {
                What::Opened { cursor_sent: Some(cursor), .. } => *cursor = self.cursor(cursor),
                What::Opened { .. } | What::Closed { .. } => {}
                What::Stamp { raw_id } => *raw_id = self.cursor(raw_id),
                What::Notice { data, raw_id, .. } => {
                    *raw_id = self.cursor(raw_id);
                    if let Some(Value::String(cursor)) = data.get_mut("cursor") {
                        *cursor = self.cursor(cursor);
                    }
                }
                What::Delivery(delivery) => {
                    delivery.raw_id = self.cursor(&delivery.raw_id);
                    delivery.position = self.place(delivery.position);
                    if self.lost.contains_key(&*delivery.event_id) {
                        // It came, and was then lost: the id in force is all that is left of it.
                        let raw_id = delivery.raw_id.clone();
                        heard.what = What::Stamp { raw_id };
                    }
                }
            }
        }
    }

    /// A position of what was not lost.
    fn place(&self, position: i64) -> i64 {
        if position > self.head { position + SECOND } else { position }
    }

    /// A cursor that names something of the second history, or ends at what both have. What else it names was lost.
    fn cursor(&self, text: &str) -> String {
        let (positions, digest) = text.split_once('.').map_or((text, None), |(a, b)| (a, digest_in(b)));
        let Some((epoch, positions)) = positions.split_once('-') else { return text.to_owned() };
        let Ok(positions) = positions.split('+').map(str::parse).collect::<Result<Vec<i64>, _>>() else {
            return text.to_owned();
        };
        let furthest = positions.last().copied().unwrap_or_default();
        let is_lost = furthest > self.head
            && self.lost.iter().any(|(id, at)| *at == furthest && digest == Some(digest_of(id)));
        let mut places: Vec<i64> = match is_lost {
            true => positions.into_iter().map(|position| position.min(self.head)).collect(),
            false => positions.into_iter().map(|position| self.place(position)).collect(),
        };
        places.dedup();
        let places: Vec<String> = places.into_iter().map(|place| place.to_string()).collect();
        format!("{epoch}-{}", places.join("+"))
    }
}

/// 32-bit FNV-1a over the bytes of an id.
fn digest_of(id: &str) -> u32 {
    let id: uuid::Uuid = id.parse().unwrap();
    id.as_bytes()
        .iter()
        .fold(2_166_136_261, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(16_777_619))
}
