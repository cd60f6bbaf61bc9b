//! What a stream has sent: a cursor without its history, which grows with each event and never claims more.

use crate::event::{Checkpoint, Cursor, Epoch, Position};

/// Positions, each with the digest of its event's id, if it is known.
type Ahead = Vec<(Position, Option<u32>)>;

/// See the module. Of what was sent ahead of others, each with the digest of its event's id, if it is known.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Everything up to here was sent, or was not for this listener.
    position: Position,
    digest: Option<u32>,
    /// Beyond `position`, ascending, each once; at most [`Cursor::MAX_OVERTAKEN`]. Boxed: hardly a stream has any.
    ahead: Option<Box<Ahead>>,
}

impl Sent {
    /// Everything up to here, nothing ahead.
    pub(super) fn at(here: Checkpoint) -> Self {
        Self { position: here.position, digest: here.digest(), ahead: None }
    }

    pub(super) fn of(cursor: &Cursor) -> Self {
        let Some((last, others)) = cursor.overtaken.split_last() else {
            return Self { position: cursor.position, digest: cursor.digest, ahead: None };
        };
        // A cursor has the digest of the last position that it names.
        let others = others.iter().map(|position| (*position, None));
        let ahead = others.chain([(*last, cursor.digest)]).collect();
        Self { position: cursor.position, digest: None, ahead: Some(Box::new(ahead)) }
    }

    pub(super) fn cursor(&self, epoch: &Epoch) -> Cursor {
        let ahead = self.ahead();
        Cursor {
            epoch: epoch.clone(),
            position: self.position,
            overtaken: ahead.iter().map(|(position, _)| *position).collect(),
            digest: ahead.last().map_or(self.digest, |(_, digest)| *digest),
        }
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    fn ahead(&self) -> &[(Position, Option<u32>)] {
        self.ahead.as_deref().map_or(&[], Vec::as_slice)
    }

    /// How many more may be sent ahead.
    pub(super) fn room(&self) -> usize {
        Cursor::MAX_OVERTAKEN.saturating_sub(self.ahead().len())
    }

    pub(super) fn has(&self, position: Position) -> bool {
        let ahead = || self.ahead().binary_search_by_key(&position, |(ahead, _)| *ahead);
        position <= self.position || ahead().is_ok()
    }

    /// Whether the cursor names this position and nothing else.
    pub(super) fn is_exactly(&self, position: Position) -> bool {
        self.position == position && self.ahead.is_none()
    }

    /// An event was sent. `before` is the first that was not, if any stands before what is known to be complete:
    /// `known`.
    pub(super) fn add(&mut self, position: Position, digest: u32, before: Option<Position>, known: Position) {
        if self.ahead.is_none() && position <= known && before.is_none_or(|before| position < before) {
            (self.position, self.digest) = (position, Some(digest));
            return;
        }
        let ahead = self.ahead.get_or_insert_default();
        if let Err(at) = ahead.binary_search_by_key(&position, |(ahead, _)| *ahead) {
            ahead.insert(at, (position, Some(digest)));
        }
        self.settle(before, known);
    }

    /// Moves on over what was sent ahead and has nothing before it any more. `before` and `known` as above.
    pub(super) fn settle(&mut self, before: Option<Position>, known: Position) {
        let Some(ahead) = &mut self.ahead else { return };
        let is_settled =
            |position: &Position| *position <= known && before.is_none_or(|before| *position < before);
        let settled = ahead.iter().take_while(|(position, _)| is_settled(position)).count();
        if let Some((position, digest)) = ahead.drain(..settled).next_back() {
            (self.position, self.digest) = (position, digest);
        }
        if ahead.is_empty() {
            self.ahead = None;
        }
    }

    /// Everything up to `here` was sent, or was not for this listener. Whether that is news.
    pub(super) fn reach(&mut self, here: Checkpoint) -> bool {
        if here.position <= self.position {
            return false;
        }
        (self.position, self.digest) = (here.position, here.digest());
        if let Some(ahead) = &mut self.ahead {
            // One that stands just there is known by its own digest, if by any.
            let same = ahead.iter().find(|(position, _)| *position == here.position).and_then(|(_, d)| *d);
            self.digest = self.digest.or(same);
            ahead.retain(|(position, _)| *position > here.position);
            if ahead.is_empty() {
                self.ahead = None;
            }
        }
        true
    }
}
