//! That what is logged is kept, and comes back from its files.

use super::small::ms;
use super::two;
use crate::ledger::{Audience, Ended, Fault, Ledger, LedgerWriter};

#[test]
fn a_ledger_is_read_back_as_it_was_written() {
    let (mut run, alice, bob) = two();
    run.got(alice, "a", 12);
    run.reset(bob, 13, "e-3");
    run.closed(bob, 14);
    run.ended(20, Ended::Read { user: "alice".into(), event_id: "x".into() });
    run.sample(30, 1, 2, 3);
    run.unknown("u", 40, Audience::Topic("news".into())).expires = Some(ms(50));
    run.ledger.faults.push(Fault { name: "f".into(), begun: ms(1), healed: ms(2) });
    run.ledger.healed = Some(ms(100));
    let folder = tempfile::tempdir().unwrap();
    run.ledger.write(folder.path()).unwrap();
    assert_eq!(Ledger::read(folder.path()).unwrap(), run.ledger);
}

#[test]
fn a_shared_writer_gathers_what_everybody_logs() {
    let (mut run, alice, _) = two();
    run.got(alice, "a", 12);
    run.got(alice, "a", 13);
    run.sample(30, 1, 2, 3);
    run.ended(20, Ended::Left { listener: 1 });
    run.ledger.faults.push(Fault { name: "f".into(), begun: ms(1), healed: ms(2) });
    run.ledger.healed = Some(ms(100));
    let (writer, logged) = (LedgerWriter::new(), run.ledger.clone());
    assert!(writer.now() >= writer.time_of(std::time::Instant::now() - ms(1000)));
    let shared = writer.clone();
    logged.attempts.into_iter().for_each(|attempt| shared.attempt(attempt));
    logged.listeners.into_iter().for_each(|listener| shared.listener(listener));
    logged.heard.into_iter().for_each(|h| shared.heard(h.listener, h.connection, h.at, h.what));
    logged.endings.into_iter().for_each(|ending| shared.ending(ending));
    logged.faults.into_iter().for_each(|fault| shared.fault(fault));
    logged.samples.into_iter().for_each(|sample| shared.sample(sample));
    logged.healed.into_iter().for_each(|at| shared.healed(at));
    assert_eq!(writer.look(|ledger| ledger.attempts.len()), 3);
    assert_eq!(writer.finish(), run.ledger);
    assert_eq!(shared.finish(), Ledger::default());
}
