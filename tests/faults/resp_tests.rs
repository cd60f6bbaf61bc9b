//! The faults of messages are put to the test without a network, and the splitter with everything the protocol has.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::Instant;

use super::resp::{LONGEST_HOLD, PushCounts, PushFault, PushFaults, Splitter, is_message};

fn line(kind: char, text: impl std::fmt::Display) -> Vec<u8> {
    format!("{kind}{text}\r\n").into_bytes()
}

fn blob(kind: char, content: &[u8]) -> Vec<u8> {
    [&line(kind, content.len()), content, b"\r\n"].concat()
}

fn aggregate(kind: char, length: usize, content: &[Vec<u8>]) -> Vec<u8> {
    [line(kind, length), content.concat()].concat()
}

/// Any value as it is sent.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let text =
        "[a-zA-Z0-9 >$*|\r]{0,12}".prop_filter("a line has no end inside", |text| !text.ends_with('\r'));
    let scalar = prop_oneof![
        (prop::sample::select(vec!['+', '-', ',', '(']), text).prop_map(|(kind, text)| line(kind, text)),
        any::<i64>().prop_map(|number| line(':', number)),
        any::<bool>().prop_map(|is| line('#', if is { 't' } else { 'f' })),
        prop::sample::select(vec!["_\r\n", "$-1\r\n", "*-1\r\n", "*0\r\n", "%0\r\n"])
            .prop_map(|null| null.as_bytes().to_vec()),
        (prop::sample::select(vec!['$', '!', '=']), any_bytes()).prop_map(|(kind, it)| blob(kind, &it)),
    ];
    scalar.prop_recursive(4, 64, 6, |inner| {
        let lists = (prop::sample::select(vec!['*', '~', '>']), vec(inner.clone(), 0..6));
        let pairs = vec((inner.clone(), inner.clone()), 0..4);
        let pairs =
            pairs.prop_map(|pairs| pairs.into_iter().map(|(k, v)| [k, v].concat()).collect::<Vec<_>>());
        prop_oneof![
            lists.prop_map(|(kind, content)| aggregate(kind, content.len(), &content)),
            pairs.clone().prop_map(|pairs| aggregate('%', pairs.len(), &pairs)),
            (pairs, inner).prop_map(|(pairs, on)| [aggregate('|', pairs.len(), &pairs), on].concat()),
        ]
    })
}

/// Contents that look like framing, too.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..40), Just(b"\r\n$3\r\n\r\n".to_vec()), Just(vec![b'x'; 5_000])]
}

fn message(number: usize) -> Vec<u8> {
    let content = [blob('$', b"message"), blob('$', b"channel"), blob('$', number.to_string().as_bytes())];
    aggregate('>', 3, &content)
}

/// Cuts into pieces of these lengths, again and again.
fn chunks<'a>(mut bytes: &'a [u8], lengths: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = lengths.iter().cycle();
    std::iter::from_fn(move || {
        let (chunk, rest) = bytes.split_at(bytes.len().min(*lengths.next()?));
        bytes = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn split(bytes: &[u8], lengths: &[usize]) -> Vec<Bytes> {
    let mut splitter = Splitter::default();
    let mut values = Vec::new();
    for chunk in chunks(bytes, lengths) {
        splitter.feed(chunk);
        while let Some(value) = splitter.next().unwrap() {
            values.push(value);
        }
    }
    assert_eq!(splitter.take_rest(), "", "nothing is left");
    values
}

proptest! {
    #[test]
    fn a_stream_is_split_into_its_values_however_it_comes(
        values in vec(value(), 0..12),
        lengths in vec(1..60_usize, 1..20),
    ) {
        prop_assert_eq!(&split(&values.concat(), &lengths), &values);
        prop_assert_eq!(&split(&values.concat(), &[1]), &values);
    }

    #[test]
    fn only_messages_are_touched_and_none_gets_lost_uncounted(
        values in vec(prop_oneof![value().prop_map(Some), Just(None)], 0..60),
        lengths in vec(1..200_usize, 1..20),
        percents in (0..40_u32, 0..30_u32, 0..30_u32),
        seed in any::<u64>(),
    ) {
        let number = |(at, value): (usize, Option<Vec<u8>>)| value.unwrap_or_else(|| message(at));
        let values: Vec<Vec<u8>> = values.into_iter().enumerate().map(number).collect();
        let (drop_percent, repeat_percent, reorder_percent) = percents;
        let fault = PushFault { drop_percent, repeat_percent, reorder_percent, seed };
        let (sent, counts) = fault_all(&values, &lengths, fault);
        let is_other = |value: &&Vec<u8>| !is_message(value);
        let others_sent: Vec<Bytes> = sent.iter().filter(|value| !is_message(value)).cloned().collect();
        let others: Vec<&Vec<u8>> = values.iter().filter(is_other).collect();
        prop_assert_eq!(&others_sent, &others);
        let seen = values.len() - others.len();
        let expected = seen as u64 - counts.dropped + counts.repeated;
        prop_assert_eq!((sent.len() - others.len()) as u64, expected);
        prop_assert_eq!(counts.seen, seen as u64);
        prop_assert_eq!(fault_all(&values, &[7], fault), (sent, counts), "the seed decides alone");
    }
}

/// What is sent of these values in place of them.
fn fault_all(values: &[Vec<u8>], lengths: &[usize], fault: PushFault) -> (Vec<Bytes>, PushCounts) {
    let mut faults = PushFaults::new(1);
    let (mut out, mut counts) = (BytesMut::new(), PushCounts::default());
    for chunk in chunks(&values.concat(), lengths) {
        faults.set(Some(fault));
        faults.pass(chunk, Instant::now(), &mut out, &mut counts).unwrap();
    }
    faults.finish(&mut out, &mut counts);
    (split(&out, &[64]), counts)
}

#[test]
fn each_fault_does_what_it_says() {
    let messages: Vec<Vec<u8>> = (0..5).map(message).collect();
    let order = |fault: PushFault| {
        let (sent, counts) = fault_all(&messages, &[9], fault);
        let number = |value: &Bytes| messages.iter().position(|message| message == value).unwrap();
        (sent.iter().map(number).collect::<Vec<_>>(), counts)
    };
    let none = PushFault::default();
    assert_eq!(order(none).0, [0, 1, 2, 3, 4]);
    let (sent, counts) = order(PushFault { drop_percent: 100, ..none });
    assert_eq!((sent, counts.dropped), (vec![], 5));
    let (sent, counts) = order(PushFault { repeat_percent: 100, ..none });
    assert_eq!((sent, counts.repeated), (vec![0, 0, 1, 1, 2, 2, 3, 3, 4, 4], 5));
    let (sent, counts) = order(PushFault { reorder_percent: 100, ..none });
    assert_eq!((sent, counts.reordered, counts.late), (vec![1, 0, 3, 2, 4], 2, 1));
}

#[test]
fn connections_of_one_seed_lose_different_messages() {
    let messages: Vec<Vec<u8>> = (0..100).map(message).collect();
    let fault = PushFault { drop_percent: 50, seed: 1, ..PushFault::default() };
    let sent = |connection| {
        let mut faults = PushFaults::new(connection);
        faults.set(Some(fault));
        let mut out = BytesMut::new();
        faults.pass(&messages.concat(), Instant::now(), &mut out, &mut PushCounts::default()).unwrap();
        out
    };
    assert_eq!(sent(1), sent(1));
    assert_ne!(sent(1), sent(2));
}

#[test]
fn a_held_message_says_when_it_is_late() {
    let mut faults = PushFaults::new(1);
    faults.set(Some(PushFault { reorder_percent: 100, ..PushFault::default() }));
    let (now, mut out, mut counts) = (Instant::now(), BytesMut::new(), PushCounts::default());
    faults.pass(&message(0), now, &mut out, &mut counts).unwrap();
    assert_eq!((faults.held_until(), &out[..]), (Some(now + LONGEST_HOLD), &b""[..]));
    faults.release(&mut out, &mut counts);
    assert_eq!((faults.held_until(), &out[..], counts.late), (None, &message(0)[..], 1));
}

#[test]
fn messages_are_distinguished_from_everything_else() {
    let push = |kind: &[u8]| aggregate('>', 2, &[blob('$', kind), blob('$', b"x")]);
    for kind in [&b"message"[..], b"pmessage", b"smessage"] {
        assert!(is_message(&push(kind)));
    }
    for kind in [&b"subscribe"[..], b"unsubscribe", b"invalidate", b"messages", b""] {
        assert!(!is_message(&push(kind)));
    }
    assert!(!is_message(&aggregate('*', 2, &[blob('$', b"message"), blob('$', b"x")])));
    assert!(!is_message(&blob('$', &push(b"message"))));
    assert!(!is_message(b">0\r\n"));
}

#[test]
fn what_redis_never_sends_is_malformed() {
    let malformed: [&[u8]; 9] = [
        b"HTTP/1.1 200 OK\r\n",
        b"\r\n",
        b"$x\r\n",
        b"$+3\r\nabc\r\n",
        b"$-2\r\n",
        b"*?\r\n",
        b"$3\r\nabcd\r\n",
        b"$99999999999\r\n",
        b"%18446744073709551615\r\n%18446744073709551615\r\n",
    ];
    for bytes in malformed {
        let mut splitter = Splitter::default();
        splitter.feed(bytes);
        assert!(splitter.next().is_err(), "{}", bytes.escape_ascii());
    }
}
