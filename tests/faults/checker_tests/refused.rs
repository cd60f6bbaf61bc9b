//! What a listener may not live through: refusals, which end an EventSource for good, and delays.

use super::small::{Run, ms};
use crate::checker::Check::{C1, C9};
use crate::ledger::Audience::Everyone;
use crate::ledger::{Ended, What};

/// A listener who is answered 503 in the end, with nothing missed so far.
fn refused() -> (Run, usize) {
    let mut run = Run::default();
    let alice = run.listen("alice");
    run.acked("a", 3, 10, Everyone);
    run.got(alice, "a", 12);
    run.closed(alice, 20);
    let cursor_sent = Some("e-3".to_owned());
    run.heard(alice, 30, What::Opened { address: "a".to_owned(), cursor_sent, status: Some(503) });
    (run, alice)
}

#[test]
fn c1_a_refused_listener_is_lost_even_if_nothing_came_since() {
    let (run, _) = refused();
    let verdict = run.breaks(&[C1]);
    assert!(verdict.violations[0].text.contains("with 503"), "{verdict}");
}

#[test]
fn c1_a_revoked_listener_is_refused() {
    let (mut run, listener) = refused();
    run.ended(40, Ended::Revoked { listener });
    // Not before it was asked for.
    run.breaks(&[C1]);
    let (mut run, listener) = refused();
    run.ended(25, Ended::Revoked { listener });
    run.breaks(&[]);
}

#[test]
fn c9_a_delay_is_found_where_a_bound_is_promised() {
    let mut run = Run::default();
    let alice = run.listen("alice");
    run.acked("a", 3, 10, Everyone);
    run.got(alice, "a", 12);
    run.acked("b", 5, 20, Everyone);
    run.got(alice, "b", 71);
    run.breaks(&[]);
    run.promises.worst_delay = Some(ms(50));
    run.breaks(&[]);
    run.promises.worst_delay = Some(ms(49));
    assert_eq!(run.breaks(&[C9]).count(C9), 1);
}
