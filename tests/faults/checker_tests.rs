//! That the checker can fail: for each check what it lets pass, and what it must find.

mod logged;
mod random;
mod refused;
mod resets;
mod small;

use carillon::event::Priority;

use crate::checker::Check::{self, C1, C2, C3, C4, C5, C6, C7, C8, C9};
use crate::checker::{Promises, Verdict};
use crate::ledger::Audience::{self, Everyone};
use crate::ledger::{Ended, Fault, Listener, Outcome, What};
use small::{Run, ms, user};

/// Two listeners; `a` and `b` for everyone, `c` for bob.
fn two() -> (Run, usize, usize) {
    let mut run = Run::default();
    let (alice, bob) = (run.listen("alice"), run.listen("bob"));
    run.acked("a", 3, 10, Everyone);
    run.acked("b", 5, 20, Everyone);
    run.acked("c", 6, 30, user("bob"));
    (run, alice, bob)
}

#[test]
fn a_clean_ledger_passes_and_is_measured() {
    let (mut run, alice, bob) = two();
    run.got(alice, "a", 14);
    run.got(bob, "a", 13);
    run.closed(bob, 15);
    run.got(alice, "b", 20);
    run.opened(bob, 25, Some("e-3"));
    run.stamp(bob, 26, "e-3");
    run.got(bob, "b", 50);
    run.got(bob, "c", 51);
    run.stamp(alice, 60, "e-6");
    run.sample(0, 100, 5, 0);
    run.sample(40, 300, 9, 7);
    run.sample(60, 200, 6, 0);
    run.attempt("refused", 40, Everyone, Outcome::Failed { status: 422, detail: "type".into() });
    run.unknown("lost", 41, Everyone);
    run.ledger.healed = Some(ms(100));
    run.acked("sentinel-1", 8, 101, Everyone);
    run.got(alice, "sentinel-1", 102);
    run.got(bob, "sentinel-1", 107);
    let measurements = run.breaks(&[]).measurements;
    assert_eq!(
        (measurements.acked, measurements.unknown, measurements.failed, measurements.listeners),
        (4, 1, 1, 2)
    );
    assert_eq!(
        (measurements.deliveries, measurements.lost, measurements.raw_repeats, measurements.overtakings),
        (7, 0, 0, 0)
    );
    assert_eq!(
        (measurements.worst_delay, measurements.p50_delay, measurements.p99_delay),
        (ms(29), ms(3), ms(29))
    );
    assert_eq!(
        (measurements.longest_outage, measurements.peak_memory, measurements.resets),
        (ms(11), 300, 0)
    );
    assert_eq!(measurements.caught_up_after, Some(ms(7)));
}

#[test]
fn c1_an_acknowledged_event_that_does_not_come_is_found() {
    let (mut run, alice, bob) = two();
    run.got(alice, "a", 12);
    run.got(alice, "b", 22);
    run.got(bob, "a", 12);
    run.got(bob, "b", 22);
    let verdict = run.breaks(&[C1]);
    assert_eq!((verdict.count(C1), verdict.measurements.lost), (1, 1));
    assert!(verdict.violations[0].text.contains("c at 6"), "{verdict}");
}

#[test]
fn c1_what_was_there_before_the_first_cursor_is_not_owed_unless_asked_for() {
    let late = |cursor: Option<&str>, first: &str| {
        let mut run = Run::default();
        run.acked("a", 3, 10, Everyone);
        run.acked("b", 5, 20, Everyone);
        let listener = run.listener(Listener { user: "alice".into(), ..Listener::default() });
        run.opened(listener, 30, cursor);
        run.stamp(listener, 30, first);
        run
    };
    late(None, "e-5").breaks(&[]);
    late(Some("e-5"), "e-5").breaks(&[]);
    late(None, "e-3").breaks(&[C1]);
    assert_eq!(late(Some("e-0"), "e-0").breaks(&[C1]).count(C1), 2);
    late(Some("e-3+5"), "e-3+5").breaks(&[]);
    // What it asked for is owed even if it never gets that far.
    let mut mute = late(Some("e-0"), "e-0");
    mute.ledger.heard.pop();
    mute.breaks(&[C1]);
}

/// An event that ended is owed to those who had time for it, and no fault about.
#[test]
fn c1_an_event_that_ended_is_owed_if_there_was_time() {
    let ended_at = |end: u64| {
        let mut run = Run::default();
        let alice = run.listen("alice");
        run.acked("a", 3, 10, Everyone).expires = Some(ms(end));
        run.stamp(alice, 60_000, "e-3");
        run
    };
    ended_at(5000).breaks(&[]);
    let mut run = ended_at(20_000);
    run.breaks(&[C1]);
    run.ledger.faults.push(Fault { name: "f".into(), begun: ms(2000), healed: ms(9000) });
    run.breaks(&[]);
    // Which of two attempts is stored, nobody knows: the shorter life is what is owed.
    let mut run = ended_at(20_000);
    run.unknown("a", 5, Everyone).expires = Some(ms(100));
    run.breaks(&[]);
    // Beyond the run's end it lives, however short the time.
    ended_at(70_000).breaks(&[C1, C4]);
}

#[test]
fn c1_nothing_is_owed_after_a_read_a_retraction_a_revocation_or_leaving() {
    let id = || "id of a".to_owned();
    for of in [
        Ended::Read { user: "alice".into(), event_id: id() },
        Ended::Retracted { event_id: id() },
        Ended::Revoked { listener: 0 },
        Ended::Left { listener: 0 },
    ] {
        let mut run = Run::default();
        let alice = run.listen("alice");
        run.acked("a", 3, 10, Everyone);
        run.stamp(alice, 40, "e-3");
        run.breaks(&[C1, C4]);
        run.ended(12, of);
        run.breaks(&[]);
    }
    let mut run = Run::default();
    run.listen("alice");
    run.acked("a", 3, 10, Everyone);
    run.ended(12, Ended::Read { user: "bob".into(), event_id: id() });
    run.breaks(&[C1]);
}

#[test]
fn c2_a_repeat_on_one_connection_is_found_and_one_on_another_is_counted() {
    let mut run = Run::default();
    let alice = run.listen("alice");
    run.acked("a", 3, 10, Everyone);
    run.got(alice, "a", 12);
    let mut on_another = run.clone();
    run.got(alice, "a", 13);
    run.promises.raw_repeats = 5;
    assert_eq!(run.breaks(&[C2]).measurements.raw_repeats, 1);
    on_another.resumed(alice, 20, "e-0");
    on_another.got(alice, "a", 21);
    on_another.breaks(&[C2]);
    on_another.promises.raw_repeats = 1;
    assert_eq!(on_another.breaks(&[]).measurements.raw_repeats, 1);
}

#[test]
fn c3_only_what_is_more_urgent_may_overtake() {
    let order = |first: Priority, second: Priority, promises: Promises| {
        let mut run = Run { promises, ..Run::default() };
        let alice = run.listen("alice");
        run.acked("a", 3, 10, Everyone).priority = first;
        run.acked("b", 5, 20, Everyone).priority = second;
        run.got_with(alice, "b", 22, "e-0+5");
        run.got_with(alice, "a", 23, "e-5");
        run.check()
    };
    let (low, normal, high, urgent) = (Priority::Low, Priority::Normal, Priority::High, Priority::Urgent);
    for (first, second) in [(low, normal), (normal, high), (low, urgent), (high, urgent)] {
        let verdict = order(first, second, Promises::default());
        assert!(verdict.is_clean() && verdict.measurements.overtakings == 1, "{verdict}");
        let strict = order(first, second, Promises { overtaking: None, ..Promises::default() });
        assert_eq!(strict.broken(), [C3]);
    }
    for (first, second) in [(normal, normal), (high, high), (urgent, high), (normal, low)] {
        assert_eq!(order(first, second, Promises::default()).broken(), [C3], "{first} {second}");
    }
    let only_urgent = || Promises { overtaking: Some(high), ..Promises::default() };
    assert_eq!(order(low, normal, only_urgent()).broken(), [C3]);
    assert!(order(low, high, only_urgent()).is_clean());
}

#[test]
fn c4_nothing_first_comes_after_a_cursor_that_has_seen_it() {
    let mut run = Run::default();
    let alice = run.listen("alice");
    run.acked("a", 3, 10, Everyone);
    run.acked("b", 5, 20, Everyone).priority = Priority::High;
    run.opened(alice, 30, Some("e-2+5"));
    run.got_with(alice, "a", 32, "e-3+5");
    run.got(alice, "b", 33);
    let verdict = run.breaks(&[C4]);
    assert!(verdict.violations.iter().any(|v| v.text.contains("came first on it")), "{verdict}");
}

#[test]
fn c4_a_cursor_stamped_ahead_of_what_was_sent_is_found_without_a_reconnect() {
    let stamped = |raw_id: &str| {
        let (mut run, alice, bob) = two();
        run.got(alice, "a", 12);
        run.got(bob, "a", 12);
        run.stamp(alice, 21, raw_id);
        run.got(alice, "b", 22);
        run.got(bob, "b", 22);
        run.got(bob, "c", 32);
        run
    };
    // Between events, below the next: nothing was skipped. Events of others are none of its business.
    stamped("e-4").breaks(&[]);
    assert_eq!(stamped("e-5").breaks(&[C4]).count(C4), 1);
    stamped("e-7").breaks(&[C4]);
    stamped("e-3+5").breaks(&[C4]);
    stamped("e-3+6").breaks(&[]);
    stamped("e-03").breaks(&[C4]);
    stamped("f-3").breaks(&[C4]);
}

#[test]
fn c4_an_event_that_its_own_id_does_not_name_is_found() {
    let mut run = Run::default();
    let alice = run.listen("alice");
    run.acked("a", 3, 10, Everyone);
    run.got_with(alice, "a", 12, "e-2");
    run.breaks(&[C4]);
}

#[test]
fn c5_what_is_not_theirs_is_found() {
    let topic = |name: &str| Audience::Topic(name.to_owned());
    let listener = Listener {
        user: "alice".into(),
        topics: vec!["news".into()],
        types: vec!["test".into()],
        min_priority: Some(Priority::Normal),
        ..Listener::default()
    };
    let got = |audience: Audience, event_type: &str, priority: Priority| {
        let mut run = Run::default();
        let alice = run.listen_as(listener.clone());
        let attempt = run.acked("a", 3, 10, audience);
        (attempt.event_type, attempt.priority) = (event_type.to_owned(), priority);
        run.got(alice, "a", 12);
        run
    };
    let both = Audience::Users(vec!["bob".into(), "alice".into()]);
    for audience in [Everyone, user("alice"), both, topic("news")] {
        got(audience.clone(), "test", Priority::Normal).breaks(&[]);
        got(audience.clone(), "other", Priority::Normal).breaks(&[C5]);
        got(audience, "test", Priority::Low).breaks(&[C5]);
    }
    for audience in [user("bob"), Audience::Users(vec!["bob".into()]), topic("sport")] {
        got(audience, "test", Priority::Normal).breaks(&[C5]);
    }
}

#[test]
fn c6_what_comes_after_its_end_and_the_margin_is_found() {
    let id = || "id of a".to_owned();
    let ends: [(u64, Option<Ended>); 4] = [
        (1000, None),
        (2001, Some(Ended::Read { user: "alice".into(), event_id: id() })),
        (2001, Some(Ended::Retracted { event_id: id() })),
        (5001, Some(Ended::Revoked { listener: 0 })),
    ];
    for (margin, end) in ends {
        for (late, checks) in [(0, &[][..]), (1, &[C6][..])] {
            let mut run = Run::default();
            let alice = run.listen("alice");
            run.acked("a", 3, 10, Everyone).expires = end.is_none().then_some(ms(100));
            if let Some(end) = end.clone() {
                run.ended(100, end);
            }
            run.got(alice, "a", 100 + margin + late);
            run.breaks(checks);
            run.ledger.listeners[0].is_slow = true;
            run.breaks(&[]);
        }
    }
    // A request that nobody confirmed forbids nothing.
    let mut run = Run::default();
    let alice = run.listen("alice");
    run.acked("a", 3, 10, Everyone);
    run.ended(100, Ended::Retracted { event_id: id() });
    run.ledger.endings[0].answered = None;
    run.got(alice, "a", 60_000);
    run.breaks(&[]);
}

#[test]
fn c7_an_unknown_outcome_is_all_or_nothing() {
    let mut run = Run::default();
    let (alice, bob) = (run.listen("alice"), run.listen("bob"));
    run.unknown("u", 10, Everyone);
    run.breaks(&[]);
    run.got(alice, "u", 12);
    run.breaks(&[C7]);
    run.got(bob, "u", 13);
    run.breaks(&[]);
}

#[test]
fn c7_one_key_is_one_event() {
    let acked = |id: &str, position: i64| Outcome::Acked { id: id.into(), position };
    let run = |key: &str, outcome: Outcome| {
        let mut run = Run::default();
        let alice = run.listen("alice");
        run.acked("a", 3, 10, Everyone);
        run.attempt(key, 20, Everyone, outcome);
        run.got(alice, "a", 22);
        run
    };
    run("a", acked("id of a", 3)).breaks(&[]);
    run("a", Outcome::Unknown { why: "cut".into() }).breaks(&[]);
    run("a", acked("another", 3)).breaks(&[C7]);
    run("a", acked("id of a", 4)).breaks(&[C7]);
    // One of two keys that share a place cannot have come.
    assert_eq!(run("b", acked("id of a", 3)).breaks(&[C1, C4, C7]).count(C7), 1);
    let mut differs = run("a", acked("id of a", 3));
    differs.ledger.attempts[1].audience = user("bob");
    differs.breaks(&[C7]);
    // The delivery against the acknowledgement.
    for change in 0..4 {
        let mut run = run("a", acked("id of a", 3));
        let Some(What::Delivery(delivery)) = run.ledger.heard.last_mut().map(|heard| &mut heard.what) else {
            panic!("a delivery is last")
        };
        match change {
            0 => delivery.event_id = "another".into(),
            1 => (delivery.position, delivery.raw_id) = (4, "e-4".into()),
            2 => delivery.priority = Priority::Urgent,
            _ => delivery.event_type = "other".into(),
        }
        run.breaks(&[C7]);
    }
}

#[test]
fn c7_what_was_refused_or_never_published_does_not_come() {
    let mut run = Run::default();
    let alice = run.listen("alice");
    run.attempt("refused", 10, Everyone, Outcome::Failed { status: 422, detail: String::new() });
    let mut delivery = run.delivery("refused", "e-99");
    run.heard(alice, 12, What::Delivery(delivery.clone()));
    run.breaks(&[C7]);
    run.ledger.heard.pop();
    delivery.key = "nobody's".into();
    run.heard(alice, 12, What::Delivery(delivery));
    run.breaks(&[C7]);
    // A retry after a refusal may well be taken.
    let mut run = Run::default();
    let alice = run.listen("alice");
    run.attempt("a", 10, Everyone, Outcome::Failed { status: 429, detail: String::new() });
    run.acked("a", 99, 20, Everyone);
    run.got(alice, "a", 22);
    run.breaks(&[]);
}

#[test]
fn c8_resources_are_bounded_and_come_back() {
    let used = |peak: [u64; 3], last: [u64; 3]| {
        let promises = Promises {
            memory_peak: 1000,
            memory_growth: 100,
            descriptors_growth: 10,
            queued_peak: 50,
            ..Promises::default()
        };
        let mut run = Run { promises, ..Run::default() };
        run.sample(0, 200, 20, 1);
        // Out of order, as several samplers may write.
        run.sample(20, last[0], last[1], last[2]);
        run.sample(10, peak[0], peak[1], peak[2]);
        run
    };
    used([1000, 500, 50], [300, 30, 1]).breaks(&[]);
    used([1001, 20, 1], [200, 20, 1]).breaks(&[C8]);
    used([200, 20, 51], [200, 20, 1]).breaks(&[C8]);
    for last in [[301, 20, 1], [200, 31, 1], [200, 20, 2]] {
        used([200, 20, 1], last).breaks(&[C8]);
    }
}

#[test]
fn c9_sentinels_come_in_time_to_everyone_they_are_for() {
    let run = |came: Option<u64>| {
        let mut run = Run::default();
        let (alice, bob) = (run.listen("alice"), run.listen("bob"));
        run.ledger.healed = Some(ms(100));
        run.acked("sentinel-1", 7, 101, Everyone);
        run.acked("sentinel-2", 8, 102, user("bob"));
        run.got(alice, "sentinel-1", 110);
        run.got(bob, "sentinel-1", 110);
        if let Some(at) = came {
            run.got(bob, "sentinel-2", at);
        }
        run
    };
    run(Some(20_100)).breaks(&[]);
    run(Some(20_101)).breaks(&[C9]);
    run(None).breaks(&[C1, C9]);
    // A sentinel is not owed to a listener that has left, but to one that never got a stream.
    let mut gone = run(None);
    gone.ended(50, Ended::Left { listener: 1 });
    gone.breaks(&[]);
    let mut never = run(Some(120));
    never.listener(Listener { user: "carol".into(), ..Listener::default() });
    never.breaks(&[C9]);
}

#[test]
fn c9_a_run_without_an_acknowledged_sentinel_proves_nothing() {
    let mut run = Run::default();
    run.ledger.healed = Some(ms(100));
    run.acked("sentinel-of-before", 1, 99, Everyone);
    run.breaks(&[C9]);
    run.unknown("sentinel-1", 101, Everyone);
    run.breaks(&[C9]);
}

#[test]
fn the_first_violations_are_reported_in_full_and_all_are_counted() {
    let mut run = Run::default();
    run.listen("alice");
    for position in 1..=50 {
        run.acked(&format!("k{position}"), position, 10, Everyone);
    }
    let verdict = run.check();
    assert_eq!((verdict.count(C1), verdict.violations.len()), (50, Verdict::IN_FULL));
    assert!(verdict.to_string().ends_with("C1 (every acknowledged event arrives): 50 in all\n"));
    assert_eq!(Check::ALL.map(|check| verdict.count(check)).iter().sum::<usize>(), 50);
}

#[test]
fn what_nobody_described_is_reported() {
    let mut run = Run::default();
    run.stamp(7, 10, "e-1");
    run.breaks(&[C5]);
}

/// An answer that says "come back later" is no stream, and neither is a refusal.
#[test]
fn an_outage_lasts_until_the_next_stream_has_begun() {
    let mut run = Run::default();
    let alice = run.listen("alice");
    run.closed(alice, 100);
    run.opened(alice, 110, Some("e-0"));
    run.closed(alice, 111);
    run.opened(alice, 120, Some("e-0"));
    run.stamp(alice, 130, "e-0");
    run.closed(alice, 200);
    run.sample(220, 1, 1, 0);
    assert_eq!(run.breaks(&[]).measurements.longest_outage, ms(30));
    run.sample(300, 1, 1, 0);
    assert_eq!(run.check().measurements.longest_outage, ms(100));
    run.ended(200, Ended::Left { listener: alice });
    assert_eq!(run.check().measurements.longest_outage, ms(30));
}
