//! Which masters a Redis Cluster has, and which slots each of them.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use rand::RngExt as _;
use redis::{Cmd, ConnectionAddr, ConnectionInfo};

use super::Failure;
use super::quorum::QuorumQuery;
use super::topology::{SLOTS, Topology, UNASSIGNED};

/// The most nodes asked at once; of more, a random choice.
const MAX_ASKED: usize = 16;
/// The most masters a cluster may have: every node of ours keeps connections to each.
const MAX_MASTERS: usize = 256;

/// The masters of the newest configuration among the nodes that answer. The nodes in the URL are asked, which may be
/// gone or no longer part of the cluster, and the masters last known.
pub(super) async fn find_masters(
    quorum: &QuorumQuery,
    data: &ConnectionInfo,
    seeds: &[ConnectionAddr],
    known: Option<&Topology>,
) -> Result<Topology, Failure> {
    let mut nodes = seeds.to_vec();
    for master in known.map_or(&[][..], Topology::masters) {
        if !nodes.contains(master) {
            nodes.push(master.clone());
        }
    }
    if nodes.len() > MAX_ASKED {
        nodes.sort_by_cached_key(|_| rand::rng().random::<u32>());
        nodes.truncate(MAX_ASKED);
    }
    let nodes: Vec<_> = nodes.into_iter().map(|address| data.clone().set_addr(address)).collect();
    let mut question = Cmd::new();
    question.arg("CLUSTER").arg("NODES");
    let answers: Vec<(_, String)> = quorum
        .ask(&nodes, &question)
        .await
        .map_err(|failure| Failure(format!("no node of the cluster answers: {failure}")))?;
    merge(answers.iter().flat_map(|(asked, text)| read(text, asked)))
}

/// What one node says of a master: its address and slots.
#[derive(Debug)]
struct Claim<'a> {
    id: &'a str,
    address: ConnectionAddr,
    epoch: u64,
    slots: Vec<RangeInclusive<usize>>,
}

/// Each slot belongs to the master whose claim has the highest epoch: the cluster's own rule. So nodes that were cut
/// off with an old master lose against those that know the new one, in whatever order they answer.
fn merge<'a>(claims: impl Iterator<Item = Claim<'a>>) -> Result<Topology, Failure> {
    let mut addresses: HashMap<&str, ConnectionAddr> = HashMap::new();
    let mut owners: Vec<Option<(u64, &str)>> = vec![None; SLOTS];
    for Claim { id, address, epoch, slots } in claims {
        let owner = Some((epoch, id));
        for slot in slots.into_iter().flatten() {
            owners[slot] = owners[slot].max(owner);
        }
        // Nodes may know each other by several addresses: always the same one is taken.
        let known = addresses.entry(id).or_insert_with(|| address.clone());
        if address.to_string() < known.to_string() {
            *known = address;
        }
    }
    let mut masters: Vec<ConnectionAddr> = Vec::new();
    let mut numbers: HashMap<&str, u16> = HashMap::new();
    let mut owner_ids: Vec<&str> = owners.iter().flatten().map(|(_, id)| *id).collect();
    owner_ids.sort_unstable();
    owner_ids.dedup();
    if owner_ids.is_empty() {
        return Err(Failure("the cluster has no master".into()));
    }
    if owner_ids.len() > MAX_MASTERS {
        return Err(Failure(format!("the cluster has more than {MAX_MASTERS} masters")));
    }
    for (id, number) in owner_ids.into_iter().zip(0..) {
        masters.push(addresses[id].clone());
        numbers.insert(id, number);
    }
    let slots = owners.into_iter().map(|owner| owner.map_or(UNASSIGNED, |(_, id)| numbers[id])).collect();
    Ok(Topology::sharded(masters, slots))
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

/// `host:port@bus-port`, maybe with more behind it. A node that does not know its own host leaves it out.
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

/// `first-last` or one slot. A slot being migrated (in brackets) still belongs to its old master.
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

    fn topology(answers: &[&str]) -> Result<Topology, Failure> {
        let asked = ConnectionAddr::Tcp("127.0.0.1".into(), 7001);
        merge(answers.iter().flat_map(|text| read(text, &asked)).collect::<Vec<_>>().into_iter())
    }

    #[test]
    fn of_two_claims_to_a_slot_the_newer_one_counts() {
        let newest = topology(&[NEW]).unwrap();
        let masters: Vec<_> = newest.masters().iter().map(ToString::to_string).collect();
        assert_eq!(masters, ["127.0.0.1:7001", "::1:7002"]);
        // bar is in slot 5061, foo in 12182.
        assert_eq!((newest.master_of("bar"), newest.master_of("foo")), (Some(1), Some(0)));
        assert_eq!(topology(&[OLD, NEW]).unwrap(), newest);
        assert_eq!(topology(&[NEW, OLD]).unwrap(), newest);
        assert_eq!(topology(&[OLD]).unwrap().master_of("bar"), Some(0));
    }

    #[test]
    fn slots_may_have_no_master() {
        let partly = topology(&["a h:1@2 master - 0 0 1 connected 0-100"]).unwrap();
        assert_eq!(partly.master_of("foo"), None);
        assert!(topology(&[""]).is_err());
        assert!(topology(&["a h:1@2 master - 0 0 1 connected 0-16384 x-1 7-3"]).is_err());
    }
}
