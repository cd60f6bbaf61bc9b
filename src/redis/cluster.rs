//! Who is in charge of which slots of a Redis Cluster.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use rand::RngExt as _;
use redis::{Cmd, ConnectionAddr, ConnectionInfo};

use super::Failure;
use super::layout::{Layout, NOBODY, SLOTS};
use super::panel::Panel;

/// The most nodes asked at once; of more, some by chance.
const MAX_ASKED: usize = 16;
/// The most masters a cluster may have: every node of ours keeps connections to each.
const MAX_MASTERS: usize = 256;

/// The masters, by the newest of what the nodes that answer say. Asked are those of the URL, who may be gone or
/// no part of the cluster any more, and those last known.
pub(super) async fn find_masters(
    panel: &Panel,
    data: &ConnectionInfo,
    seeds: &[ConnectionAddr],
    known: Option<&Layout>,
) -> Result<Layout, Failure> {
    let mut whom = seeds.to_vec();
    for server in known.map_or(&[][..], Layout::servers) {
        if !whom.contains(server) {
            whom.push(server.clone());
        }
    }
    if whom.len() > MAX_ASKED {
        whom.sort_by_cached_key(|_| rand::rng().random::<u32>());
        whom.truncate(MAX_ASKED);
    }
    let whom: Vec<_> = whom.into_iter().map(|address| data.clone().set_addr(address)).collect();
    let mut question = Cmd::new();
    question.arg("CLUSTER").arg("NODES");
    let answers: Vec<(_, String)> = panel.ask(&whom, &question).await;
    if answers.is_empty() {
        return Err(Failure("no node of the cluster answers".into()));
    }
    merge(answers.iter().flat_map(|(asked, text)| read(text, asked)))
}

/// What one node says that a master is in charge of.
#[derive(Debug)]
struct Claim<'a> {
    id: &'a str,
    address: ConnectionAddr,
    epoch: u64,
    slots: Vec<RangeInclusive<usize>>,
}

/// Each slot is whose claim to it has the highest epoch: the cluster's own rule. So what was cut off with an old
/// master loses against what has heard of the new one, whoever is asked first.
fn merge<'a>(claims: impl Iterator<Item = Claim<'a>>) -> Result<Layout, Failure> {
    let mut addresses: HashMap<&str, ConnectionAddr> = HashMap::new();
    let mut owners: Vec<Option<(u64, &str)>> = vec![None; SLOTS];
    for Claim { id, address, epoch, slots } in claims {
        let owner = Some((epoch, id));
        for slot in slots.into_iter().flatten() {
            owners[slot] = owners[slot].max(owner);
        }
        // Nodes may know each other by several addresses: always the same one is taken.
        let place = addresses.entry(id).or_insert_with(|| address.clone());
        if address.to_string() < place.to_string() {
            *place = address;
        }
    }
    let mut servers: Vec<ConnectionAddr> = Vec::new();
    let mut numbers: HashMap<&str, u16> = HashMap::new();
    let mut in_charge: Vec<&str> = owners.iter().flatten().map(|(_, id)| *id).collect();
    in_charge.sort_unstable();
    in_charge.dedup();
    if in_charge.is_empty() {
        return Err(Failure("the cluster has no master".into()));
    }
    if in_charge.len() > MAX_MASTERS {
        return Err(Failure(format!("the cluster has more than {MAX_MASTERS} masters")));
    }
    for (id, number) in in_charge.into_iter().zip(0..) {
        servers.push(addresses[id].clone());
        numbers.insert(id, number);
    }
    let slots = owners.into_iter().map(|owner| owner.map_or(NOBODY, |(_, id)| numbers[id])).collect();
    Ok(Layout::sharded(servers, slots))
}

/// Reads an answer to CLUSTER NODES. Lines that make no sense are left out.
fn read<'a>(text: &'a str, asked: &'a ConnectionAddr) -> impl Iterator<Item = Claim<'a>> {
    text.lines().filter_map(move |line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [id, address, flags, _, _, _, epoch, _, slots @ ..] = &fields[..] else { return None };
        let flags: Vec<&str> = flags.split(',').collect();
        if !flags.contains(&"master") || flags.contains(&"noaddr") || flags.contains(&"handshake") {
            return None;
        }
        let slots: Vec<_> = slots.iter().filter_map(|range| read_range(range)).collect();
        if slots.is_empty() {
            return None;
        }
        Some(Claim { id, address: read_address(address, asked)?, epoch: epoch.parse().ok()?, slots })
    })
}

/// `host:port@bus-port`, maybe with more behind it. A node that has not been told its own host leaves it out.
fn read_address(text: &str, asked: &ConnectionAddr) -> Option<ConnectionAddr> {
    let (address, _) = text.split_once('@').unwrap_or((text, ""));
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok()?;
    match (host, asked) {
        ("", ConnectionAddr::Tcp(host, _)) => Some(ConnectionAddr::Tcp(host.clone(), port)),
        ("", _) => None,
        _ => Some(ConnectionAddr::Tcp(host.to_owned(), port)),
    }
}

/// `first-last` or one slot. One that is on its way (in brackets) is still whose it was.
fn read_range(text: &str) -> Option<RangeInclusive<usize>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (last < SLOTS).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "\
a 127.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-8191 [5->-b]
b 127.0.0.1:7001@17001,name master - 0 1 2 connected 8192-16382 16383
c ::1:7002@17002 slave a 0 1 1 connected
";
    const NEW: &str = "\
a 127.0.0.1:7000@17000 master,fail - 0 0 1 disconnected
b :7001@17001 myself,master - 0 1 2 connected 8192-16383
c ::1:7002@17002 master - 0 1 3 connected 0-8191
d :0@0 master,noaddr - 0 1 9 disconnected 0-16383
e 127.0.0.1:7004@17004 master - 0 1 7 connected
nonsense
";

    fn layout(answers: &[&str]) -> Result<Layout, Failure> {
        let asked = ConnectionAddr::Tcp("127.0.0.1".into(), 7001);
        merge(answers.iter().flat_map(|text| read(text, &asked)).collect::<Vec<_>>().into_iter())
    }

    #[test]
    fn of_two_that_claim_a_slot_the_newer_one_has_it() {
        let newest = layout(&[NEW]).unwrap();
        let servers: Vec<_> = newest.servers().iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.1:7001", "::1:7002"]);
        // bar is in slot 5061, foo in 12182.
        assert_eq!((newest.server_of("bar"), newest.server_of("foo")), (Some(1), Some(0)));
        assert_eq!(layout(&[OLD, NEW]).unwrap(), newest);
        assert_eq!(layout(&[NEW, OLD]).unwrap(), newest);
        assert_eq!(layout(&[OLD]).unwrap().server_of("bar"), Some(0));
    }

    #[test]
    fn slots_may_be_nobodys() {
        let partly = layout(&["a h:1@2 master - 0 0 1 connected 0-100"]).unwrap();
        assert_eq!(partly.server_of("foo"), None);
        assert!(layout(&[""]).is_err());
        assert!(layout(&["a h:1@2 master - 0 0 1 connected 0-16384 x-1 7-3"]).is_err());
    }
}
