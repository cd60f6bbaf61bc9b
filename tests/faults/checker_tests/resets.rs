//! What a listener who begins anew is owed.

use super::small::Run;
use crate::checker::Check::{C1, C4};
use crate::ledger::Audience::Everyone;

#[test]
fn a_reset_excuses_only_where_it_is_permitted() {
    let mut run = Run::default();
    let alice = run.listen("alice");
    run.acked("a", 3, 10, Everyone);
    run.acked("b", 5, 20, Everyone);
    run.closed(alice, 5);
    run.opened(alice, 30, Some("e-0"));
    run.stamp(alice, 30, "e-4");
    run.reset(alice, 30, "e-4");
    run.got(alice, "b", 31);
    run.breaks(&[C1, C4]);
    run.promises.resets = true;
    assert_eq!(run.breaks(&[]).measurements.resets, 1);
    // Only what lies behind it.
    run.ledger.heard.pop();
    run.breaks(&[C1]);
}

/// What was claimed before is not excused by a reset that comes later.
#[test]
fn a_reset_in_the_middle_of_a_connection_holds_from_there() {
    let mut run = Run::default();
    run.promises.resets = true;
    let alice = run.listen("alice");
    run.acked("a", 3, 10, Everyone);
    run.acked("b", 5, 20, Everyone);
    run.acked("c", 6, 21, Everyone);
    run.got(alice, "b", 22);
    run.reset(alice, 30, "e-7");
    let verdict = run.breaks(&[C4]);
    assert!(verdict.count(C4) == 1 && verdict.violations[0].text.contains("names a at 3"), "{verdict}");
}

#[test]
fn a_connection_without_a_cursor_begins_anew() {
    let mut run = Run::default();
    let alice = run.listen("alice");
    run.closed(alice, 5);
    run.acked("a", 3, 10, Everyone);
    run.acked("b", 5, 20, Everyone);
    run.opened(alice, 30, None);
    run.stamp(alice, 30, "e-4");
    run.breaks(&[C1]);
    run.got(alice, "b", 31);
    run.breaks(&[]);
}
