//! The order in which a backlog leaves: higher priority first, with cursors that stay sound.

use std::collections::BTreeSet;

use crate::event::{Cursor, Epoch, Position, Priority};

/// Orders one page of a backlog.
///
/// `page` holds position and priority in position order: everything up to `end` that concerns the listener, and
/// perhaps a few urgent ones from beyond it. Gives, for each event in the order it should leave, its index in `page` and the cursor that is true
/// once it has been sent, without its digest: nothing it skipped is lost on resume, nothing it overtook with is repeated. At most
/// [`Cursor::MAX_OVERTAKEN`] events are ahead at once; `ahead` are those sent earlier, and together with what
/// `page` holds beyond `end` they may not be more.
pub(super) fn leave_order(
    epoch: &Epoch,
    page: &[(Position, Priority)],
    end: Position,
    ahead: &[Position],
) -> Vec<(usize, Cursor)> {
    let mut by_priority: Vec<usize> = (0..page.len()).collect();
    by_priority.sort_by_key(|&i| (std::cmp::Reverse(page[i].1), page[i].0));
    let mut by_priority = by_priority.into_iter().peekable();
    let mut sent = vec![false; page.len()];
    let mut oldest = 0;
    let mut overtaken: BTreeSet<Position> = ahead.iter().copied().collect();
    let mut order = Vec::with_capacity(page.len());
    for _ in 0..page.len() {
        while by_priority.next_if(|&i| sent[i]).is_some() {}
        let urgent = *by_priority.peek().expect("one unsent event per turn");
        let next = if overtaken.len() < Cursor::MAX_OVERTAKEN { urgent } else { oldest };
        debug_assert!(!sent[next], "more beyond the page than may be ahead");
        sent[next] = true;
        overtaken.insert(page[next].0);
        while oldest < page.len() && sent[oldest] && page[oldest].0 <= end {
            overtaken.remove(&page[oldest].0);
            oldest += 1;
        }
        let position = page.get(oldest).map_or(end, |(position, _)| end.min(position - 1));
        let overtaken = overtaken.iter().copied().filter(|p| *p > position).collect();
        order.push((next, Cursor { epoch: epoch.clone(), position, overtaken, digest: None }));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn epoch() -> Epoch {
        "e".parse().unwrap()
    }

    #[test]
    fn urgent_events_leave_first_and_the_cursor_says_so() {
        let page = [(5, Priority::Normal), (7, Priority::Urgent), (9, Priority::Low)];
        let order: Vec<_> =
            leave_order(&epoch(), &page, 10, &[]).into_iter().map(|(i, c)| (i, c.to_string())).collect();
        assert_eq!(order, [(1, "e-4+7".into()), (0, "e-8".into()), (2, "e-10".into())]);
    }

    proptest! {
        #[test]
        fn every_cursor_names_exactly_what_was_sent(
            steps in prop::collection::vec((1..4i64, 0..4i16), 0..120),
        ) {
            let mut at = 0;
            let page: Vec<_> = steps
                .iter()
                .map(|(step, p)| { at += step; (at, Priority::from_number(*p)) })
                .collect();
            let order = leave_order(&epoch(), &page, at + 3, &[]);
            prop_assert_eq!(order.len(), page.len());
            let mut sent = BTreeSet::new();
            for (index, cursor) in order {
                prop_assert!(sent.insert(page[index].0), "sent twice");
                prop_assert!(cursor.overtaken.len() <= Cursor::MAX_OVERTAKEN);
                for (position, _) in &page {
                    prop_assert_eq!(cursor.has_seen(*position), sent.contains(position));
                }
                prop_assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
            }
        }
    }
}
