//! What the upload example needs of a server: it takes a file, counts and hashes it, keeps nothing, and
//! publishes its progress as events on a topic of its own. A worked example of a server that publishes, and
//! no part of the API.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::body::{Body, BodyDataStream};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout};

use super::App;
use super::auth::PublisherCaller;
use super::params::Params;
use super::problem::Problem;
use crate::account::User;
use crate::event::{Draft, Expiry, Invalid, Millis, Priority, Recipients, Topic, UserId};
use crate::identity::hex;
use crate::publishing::{Key, PublishError, Publisher};

/// The most bytes of a file.
pub const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// The most files on their way to one node.
const MAX_AT_ONCE: usize = 8;
/// Without a byte for so long, the sender counts as gone.
const SILENCE: Duration = Duration::from_secs(10);
/// The least time between two words about the progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// A progress event expires if no other follows: a node that is killed publishes nothing more, and "42 %"
/// would stand for ever. Longer than the longest silence.
const PROGRESS_LASTS: Millis = 15_000;
/// How long the last event of an upload is kept.
const END_LASTS: Millis = 86_400_000;
/// How many attempts are made to publish the last event, and the pause between them.
const END_TRIES: u32 = 20;
const END_PAUSE: Duration = Duration::from_millis(500);
/// The longest name of a file, in bytes.
const MAX_NAME: usize = 255;
/// The longest name of an upload, a chat room or a log, in bytes.
const MAX_ID: usize = 64;

/// The uploads on their way to this node: never more than are allowed. Cheap to clone.
#[derive(Clone, Default)]
pub struct Uploads(Arc<Mutex<HashSet<(UserId, String)>>>);

impl Uploads {
    fn begin(&self, user: UserId, id: &str) -> Result<Slot, Problem> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if running.len() >= MAX_AT_ONCE {
            return Err(Problem::busy("this node takes no more files at once", SILENCE));
        }
        let key = (user, id.to_owned());
        if !running.insert(key.clone()) {
            return Err(Problem::new(StatusCode::CONFLICT, "this upload is already on its way"));
        }
        Ok(Slot { all: self.clone(), key })
    }
}

/// One of the uploads; it is over when this is dropped.
struct Slot {
    all: Uploads,
    key: (UserId, String),
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// The topics of a user's uploads begin with this: the public id stays when the user is renamed, and is one segment.
pub fn uploads_of(user: &User) -> String {
    format!("uploads/{}", user.public_id)
}

/// Checks text from an address that is to be one segment of a topic: 1 to 64 bytes, `field` in the error.
pub fn check_segment(field: &str, text: &str) -> Result<(), Invalid> {
    if text.len() <= MAX_ID && !text.contains('/') && text.parse::<Topic>().is_ok() {
        return Ok(());
    }
    let must =
        format!("must have 1 to {MAX_ID} bytes, no '/' and no control characters, and not be '.' or '..'");
    Err(Invalid::new(field, must))
}

/// `PUT /examples/upload/{id}`: a file of the caller's; its progress is published on the topic
/// `uploads/{public id of the user}/{id}`.
pub async fn upload(
    PublisherCaller(identity): PublisherCaller,
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let Ok(Path(id)) = id else { return Err(Invalid::new("id", "must be UTF-8").into()) };
    check_segment("id", &id)?;
    let topic: Topic = format!("{}/{id}", uploads_of(&identity.user)).parse()?;
    if !app.rules.may_write(&identity.user, &topic) {
        return Err(Problem::forbidden(&format!("you may not publish to {topic}")));
    }
    let name = params.one("name")?.unwrap_or("file").to_owned();
    if name.len() > MAX_NAME {
        return Err(Invalid::new("name", format!("may have at most {MAX_NAME} bytes")).into());
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let slot = app.uploads.begin(identity.user.id, &id)?;
    let reporter = Reporter { publisher: app.publisher.clone(), user: identity.user.id, topic, name };
    // A task of its own: when the sender goes away, what waits for an answer is dropped, and nothing would
    // publish the last event.
    let receiving = tokio::spawn(async move {
        let end = receive(&reporter, body.into_data_stream(), length).await;
        let published = reporter.report_end(&end).await;
        drop(slot);
        published.map(|()| end)
    });
    let end = receiving.await.map_err(|_| Problem::defect())??;
    let status = match end {
        End::Completed { .. } => StatusCode::OK,
        End::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        End::Gone { .. } => StatusCode::BAD_REQUEST,
        End::TimedOut { .. } => StatusCode::REQUEST_TIMEOUT,
    };
    match end.data() {
        data if status.is_success() => Ok((status, Json(data)).into_response()),
        data => Err(Problem::new(status, data["reason"].as_str().unwrap_or_default())),
    }
}

/// How an upload ended.
enum End {
    Completed { size: u64, sha256: String },
    TooLarge,
    Gone { received: u64 },
    TimedOut { received: u64 },
}

impl End {
    fn event_type(&self) -> &'static str {
        match self {
            Self::Completed { .. } => "upload.completed",
            Self::TooLarge | Self::Gone { .. } => "upload.failed",
            Self::TimedOut { .. } => "upload.timed_out",
        }
    }

    fn data(&self) -> Value {
        match self {
            Self::Completed { size, sha256 } => json!({ "size": size, "sha256": sha256 }),
            Self::TooLarge => json!({ "reason": format!("the file is larger than {MAX_BYTES} bytes") }),
            Self::Gone { received } => json!({ "received": received, "reason": "the sender went away" }),
            Self::TimedOut { received } => {
                let reason = format!("nothing came for {} seconds", SILENCE.as_secs());
                json!({ "received": received, "reason": reason })
            }
        }
    }
}

/// Takes the file to its end and reports its progress.
async fn receive(reporter: &Reporter, mut body: BodyDataStream, length: Option<u64>) -> End {
    let (mut hash, mut received) = (Sha256::new(), 0_u64);
    if length.is_some_and(|length| length > MAX_BYTES) {
        return End::TooLarge;
    }
    reporter.report_progress(received, length).await;
    let mut reported_at = Instant::now();
    loop {
        let piece = match timeout(SILENCE, body.next()).await {
            Err(_) => return End::TimedOut { received },
            Ok(Some(Err(_))) => return End::Gone { received },
            Ok(Some(Ok(piece))) => piece,
            Ok(None) => return End::Completed { size: received, sha256: hex(&hash.finalize()) },
        };
        received += piece.len() as u64;
        if received > MAX_BYTES {
            return End::TooLarge;
        }
        hash.update(&piece);
        if reported_at.elapsed() >= PROGRESS_EVERY {
            reporter.report_progress(received, length).await;
            reported_at = Instant::now();
        }
    }
}

/// Publishes in the name of the one whose file it is.
struct Reporter {
    publisher: Publisher,
    user: UserId,
    topic: Topic,
    name: String,
}

impl Reporter {
    /// One report of many: if it cannot be published, the next one replaces it.
    async fn report_progress(&self, received: u64, total: Option<u64>) {
        let data = json!({ "received": received, "total": total });
        if let Err(error) = self.publish("upload.progress", data, PROGRESS_LASTS, None).await {
            tracing::warn!(%error, "the progress of an upload was not published");
        }
    }

    /// The last report, which nothing follows: tried again until it is published, once.
    async fn report_end(&self, end: &End) -> Result<(), PublishError> {
        let key = uuid::Uuid::now_v7().to_string();
        for attempt in 1.. {
            match self
                .publish(
                    end.event_type(),
                    end.data(),
                    END_LASTS,
                    Some(Key { name: key.clone(), request: None }),
                )
                .await
            {
                Err(PublishError::Overloaded | PublishError::Store(_)) if attempt < END_TRIES => {
                    tokio::time::sleep(END_PAUSE).await;
                }
                published => return published,
            }
        }
        Ok(())
    }

    async fn publish(
        &self,
        event_type: &str,
        mut data: Value,
        lasts: Millis,
        key: Option<Key>,
    ) -> Result<(), PublishError> {
        data["name"] = json!(self.name);
        let draft = Draft {
            event_type: event_type.parse()?,
            priority: Priority::Normal,
            to: Recipients::Topic(self.topic.to_string()),
            data: data.to_string(),
            expiry: Expiry::After(lasts),
            keep_after_read: None,
        };
        self.publisher.publish(self.user, vec![draft], key).await?;
        Ok(())
    }
}
