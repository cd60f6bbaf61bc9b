//! Taking an event back.

use uuid::Uuid;

use crate::bus::Notifier;
use crate::bus::message::{GLOBAL, Notice};
use crate::event::UserId;
use crate::store::{Store, StoreError};

/// Takes an event back if it is `publisher`'s (`None`: anybody's) and was not taken back before; whether it was.
pub async fn take_back(
    store: &Store,
    notifier: &Notifier,
    id: Uuid,
    publisher: Option<UserId>,
) -> Result<bool, StoreError> {
    let Some(event) = store.retract(id, publisher).await? else { return Ok(false) };
    let notice = Notice::Retracted { position: event.position, audience: event.audience };
    notifier.notify(GLOBAL.to_owned(), notice).await;
    Ok(true)
}
