//! The bus inside one process.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use bytes::Bytes;

use super::receive_queue::{BusEvents, ReceiveQueue, receive_queue};
use super::{BusError, BusLimits};

/// One bus: all its members.
#[derive(Default)]
struct MemoryRoom {
    members: Mutex<Vec<Weak<Member>>>,
}

struct Member {
    desired: Mutex<HashSet<String>>,
    received: ReceiveQueue,
    is_gone: AtomicBool,
}

/// One member of a bus in this process.
#[derive(Clone)]
pub(super) struct MemoryBus {
    room: Arc<MemoryRoom>,
    member: Arc<Member>,
}

impl MemoryBus {
    pub(super) fn open(url: &str, limits: &BusLimits) -> (Self, BusEvents) {
        let name = url.split_once(':').map_or("", |(_, name)| name);
        let room = if name.is_empty() { Arc::default() } else { shared_room(name) };
        let (received, events) = receive_queue(limits);
        received.restored();
        let member =
            Arc::new(Member { desired: Mutex::default(), received, is_gone: AtomicBool::new(false) });
        lock(&room.members).push(Arc::downgrade(&member));
        (Self { room, member }, events)
    }

    pub(super) fn publish(&self, messages: &[(String, Bytes)]) -> Result<(), BusError> {
        let mut members = lock(&self.room.members);
        members.retain(|member| member.upgrade().is_some_and(|m| !m.is_gone.load(Ordering::Relaxed)));
        let present: Vec<_> = members.iter().filter_map(Weak::upgrade).collect();
        // Under the lock, so that all members see all publishers in one order.
        for (channel, payload) in messages {
            for member in &present {
                if lock(&member.desired).contains(channel)
                    && !member.received.message(channel, payload.clone())
                {
                    member.is_gone.store(true, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    /// Whether others would hear what is published.
    pub(super) fn has_others(&self) -> bool {
        let is_other =
            |member: Arc<Member>| !Arc::ptr_eq(&member, &self.member) && member.received.has_reader();
        lock(&self.room.members).iter().any(|member| member.upgrade().is_some_and(is_other))
    }

    pub(super) fn receive_queue(&self) -> &ReceiveQueue {
        &self.member.received
    }

    pub(super) fn subscribe(&self, channel: &str) {
        lock(&self.member.desired).insert(channel.to_owned());
        self.member.received.subscribed(channel);
    }

    pub(super) fn unsubscribe(&self, channel: &str) {
        lock(&self.member.desired).remove(channel);
    }
}

/// The room of this name, as long as it has members.
fn shared_room(name: &str) -> Arc<MemoryRoom> {
    static ROOMS: OnceLock<Mutex<HashMap<String, Weak<MemoryRoom>>>> = OnceLock::new();
    let mut rooms = lock(ROOMS.get_or_init(Mutex::default));
    rooms.retain(|_, room| room.strong_count() > 0);
    if let Some(room) = rooms.get(name).and_then(Weak::upgrade) {
        return room;
    }
    let room = Arc::new(MemoryRoom::default());
    rooms.insert(name.to_owned(), Arc::downgrade(&room));
    room
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
