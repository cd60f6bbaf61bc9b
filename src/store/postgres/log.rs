//! The log: appending, reading ranges, retracting, retention.

use sqlx::postgres::{PgConnection, PgDatabaseError, PgRow};
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::{DIALECT, Failure, PostgresStore, bound};
use crate::event::{Applied, Epoch, Event, Expiry, Millis, NewEvent, Position, Topic, UserId};
use crate::store::rows::{EventRow, audience_number, only_topic, scanned};
use crate::store::scan::{Scan, Scanned};
use crate::store::{Appended, AppendedEvent, LogState, Result, StoreError, TARGETS_FORM};

/// SQLSTATE of `carillon_append_events`: the form that these events need is not written yet.
const NOT_YET_WRITTEN: &str = "CA001";
/// And: keys came with other requests; the detail names the places, from 1, of their first events.
const KEY_REUSED: &str = "CA002";

const LOG_STATE: &str = "
    select s.epoch, s.floor, greatest(s.floor, l.position) as head,
        case when l.position >= s.floor then l.id end as head_id, carillon_now() as now, s.forms, false as is_new_epoch
    from log_state s
    left join (select position, id from events order by position desc limit 1) l on true";

const COMPARE: &str = "select * from carillon_log_state($1, $2, $3)";

/// It names a column of the comparison among the append's arguments, and so comes after it.
const APPEND: &str = "
    select * from carillon_append_events(
        $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)";

const RETRACT: &str = "
    update events set retracted_at = carillon_now()
    where id = $1 and retracted_at is null and ($2 is null or publisher = $2)
    returning position";

impl PostgresStore {
    pub(in crate::store) async fn log_state(&self) -> Result<LogState> {
        let row = self.within(async |c| sqlx::query(LOG_STATE).fetch_one(c).await).await?;
        Ok(log_state(&row).map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn compare(&self, applied: &Applied) -> Result<LogState> {
        let Applied { epoch, at } = applied;
        let query = sqlx::query(COMPARE).bind(epoch.as_str()).bind(at.position).bind(at.id);
        let row = self.within(async |c| query.fetch_one(c).await).await?;
        Ok(log_state(&row).map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn id_at(&self, position: Position) -> Result<Option<Uuid>> {
        let query = sqlx::query_scalar("select id from events where position = $1").bind(position);
        Ok(self.within(async |c| query.fetch_optional(c).await).await?)
    }

    pub(in crate::store) async fn append(
        &self,
        events: &[NewEvent],
        applied: Option<&Applied>,
    ) -> Result<Appended> {
        if events.is_empty() {
            let LogState { epoch, head, head_id, is_new_epoch, .. } = match applied {
                Some(applied) => self.compare(applied).await?,
                None => self.log_state().await?,
            };
            return Ok(Appended {
                epoch,
                is_new_epoch,
                previous: head,
                previous_id: head_id,
                events: Vec::new(),
            });
        }
        // One statement on its own, so that the log's lock is never held across a round trip.
        let columns = Columns::of(events);
        let row = self.connections.within_writer(async |c| columns.append(c, applied).await).await.map_err(
            |failure| match failure.code() {
                Some(code) if code == NOT_YET_WRITTEN => StoreError::Form(TARGETS_FORM),
                Some(code) if code == KEY_REUSED => StoreError::KeyReused(reused_places(&failure)),
                _ => failure.into(),
            },
        )?;
        Ok(appended(&row, events).map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn scan<T: From<EventRow>>(&self, scan: &Scan<'_>) -> Result<Scanned<T>> {
        let statement = AssertSqlSafe(DIALECT.scan(scan));
        let query = bound!(sqlx::query(statement), scan).bind(scan.text).bind(scan.bytes);
        let rows = self.within(async |c| query.fetch_all(c).await).await?;
        Ok(scanned(&rows).map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn event_at(&self, position: Position) -> Result<Option<Event>> {
        let query = sqlx::query_as(AssertSqlSafe(DIALECT.event("e.position = $1"))).bind(position);
        let row: Option<EventRow> = self.within(async |c| query.fetch_optional(c).await).await?;
        Ok(row.map(Event::from))
    }

    pub(in crate::store) async fn retract(
        &self,
        id: Uuid,
        publisher: Option<UserId>,
    ) -> Result<Option<Event>> {
        let query = sqlx::query_scalar(RETRACT).bind(id).bind(publisher);
        match self.within(async |c| query.fetch_optional(c).await).await? {
            Some(position) => self.event_at(position).await,
            None => Ok(None),
        }
    }
}

/// An append's events, laid out in columns. One that holds nothing is empty: the database need not look at it.
struct Columns<'a> {
    events: &'a [NewEvent],
    recipients: Vec<UserId>,
    recipient_places: Vec<i32>,
    topics: Vec<&'a str>,
    topic_places: Vec<i32>,
    form: i32,
}

impl<'a> Columns<'a> {
    fn of(events: &'a [NewEvent]) -> Self {
        let mut columns = Self {
            events,
            recipients: Vec::new(),
            recipient_places: Vec::new(),
            topics: Vec::new(),
            topic_places: Vec::new(),
            form: 1,
        };
        for (event, place) in events.iter().zip(1..) {
            let (users, topics) = (event.audience.user_ids(), event.audience.topics());
            columns.recipients.extend_from_slice(users);
            columns.recipient_places.resize(columns.recipients.len(), place);
            columns.topics.extend(topics.iter().map(Topic::as_str));
            columns.topic_places.resize(columns.topics.len(), place);
            if !topics.is_empty() && users.len() + topics.len() > 1 {
                columns.form = TARGETS_FORM.number;
            }
        }
        columns
    }

    async fn append(&self, connection: &mut PgConnection, applied: Option<&Applied>) -> sqlx::Result<PgRow> {
        let key = |e: &NewEvent| e.idempotency.as_ref().map(|(key, _)| key.clone());
        let end_at = |e: &NewEvent| if let Expiry::At(at) = e.expiry { Some(at) } else { None };
        let end_in = |e: &NewEvent| if let Expiry::After(span) = e.expiry { Some(span) } else { None };
        sqlx::query(APPEND)
            .bind(self.form)
            .bind(self.column(|e| e.id))
            .bind(self.events.iter().map(|e| e.event_type.as_str()).collect::<Vec<_>>())
            .bind(self.column(|e| e.priority as i16))
            .bind(self.column(|e| audience_number(&e.audience)))
            .bind(self.sparse(|e| only_topic(&e.audience).map(str::to_owned)))
            .bind(self.events.iter().map(|e| e.data.as_str()).collect::<Vec<_>>())
            .bind(self.sparse(end_at))
            .bind(self.sparse(end_in))
            .bind(self.sparse(|e| e.keep_after_read))
            .bind(self.column(|e| e.publisher))
            .bind(self.sparse(key))
            .bind(self.sparse(|e| e.idempotency.as_ref().map(|(_, index)| *index)))
            .bind(&self.recipients)
            .bind(&self.recipient_places)
            .bind(&self.topics)
            .bind(&self.topic_places)
            .bind(self.sparse(|e| e.request.map(|request| request.hash)))
            .bind(self.sparse(|e| e.request.map(|request| request.length)))
            .bind(applied.map(|applied| applied.epoch.as_str()))
            .bind(applied.map(|applied| applied.at.position))
            .bind(applied.and_then(|applied| applied.at.id))
            .fetch_one(connection)
            .await
    }

    fn column<T>(&self, value: impl Fn(&NewEvent) -> T) -> Vec<T> {
        self.events.iter().map(value).collect()
    }

    fn sparse<T>(&self, value: impl Fn(&NewEvent) -> Option<T>) -> Vec<Option<T>> {
        let column = self.column(value);
        if column.iter().any(Option::is_some) { column } else { Vec::new() }
    }
}

/// The places, from 0, that the detail of an error names.
fn reused_places(failure: &Failure) -> Vec<usize> {
    let Failure::Sql(sqlx::Error::Database(error)) = failure else { return Vec::new() };
    let detail =
        error.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::detail).unwrap_or_default();
    let places = detail.trim_matches(['{', '}']).split(',').filter_map(|place| place.parse::<usize>().ok());
    places.filter_map(|place| place.checked_sub(1)).collect()
}

/// What was appended, from the one row that describes all events.
fn appended(row: &PgRow, events: &[NewEvent]) -> sqlx::Result<Appended> {
    let created_at: Millis = row.try_get("committed_at")?;
    let positions: Vec<Option<Position>> = row.try_get("positions")?;
    let mut outcomes: Vec<AppendedEvent> = positions
        .into_iter()
        .zip(events)
        .map(|(position, event)| AppendedEvent {
            position: position.unwrap_or_default(),
            id: event.id,
            created_at,
            expires_at: event.expiry.from(created_at),
            is_repeat: position.is_none(),
        })
        .collect();
    if outcomes.len() != events.len() {
        let (given, got) = (events.len(), outcomes.len());
        return Err(sqlx::Error::Decode(format!("appended {given} events, the answer has {got}").into()));
    }
    if let Some(places) = row.try_get::<Option<Vec<i32>>, _>("repeats")? {
        let positions: Vec<Position> = row.try_get("first_positions")?;
        let ids: Vec<Uuid> = row.try_get("first_ids")?;
        let created: Vec<Millis> = row.try_get("first_created_at")?;
        let expires: Vec<Option<Millis>> = row.try_get("first_expires_at")?;
        for (index, place) in places.into_iter().enumerate() {
            let missing = || sqlx::Error::Decode("a repeat without its first event".into());
            let outcome =
                usize::try_from(place - 1).ok().and_then(|at| outcomes.get_mut(at)).ok_or_else(missing)?;
            outcome.position = *positions.get(index).ok_or_else(missing)?;
            outcome.id = *ids.get(index).ok_or_else(missing)?;
            outcome.created_at = *created.get(index).ok_or_else(missing)?;
            outcome.expires_at = *expires.get(index).ok_or_else(missing)?;
        }
    }
    Ok(Appended {
        epoch: epoch(row.try_get("epoch")?)?,
        is_new_epoch: row.try_get("is_new_epoch")?,
        previous: row.try_get("previous")?,
        previous_id: row.try_get("previous_id")?,
        events: outcomes,
    })
}

fn log_state(row: &PgRow) -> sqlx::Result<LogState> {
    Ok(LogState {
        epoch: epoch(row.try_get("epoch")?)?,
        floor: row.try_get("floor")?,
        head: row.try_get("head")?,
        head_id: row.try_get("head_id")?,
        now: row.try_get("now")?,
        forms: row.try_get("forms")?,
        is_new_epoch: row.try_get("is_new_epoch")?,
    })
}

fn epoch(text: String) -> sqlx::Result<Epoch> {
    text.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
