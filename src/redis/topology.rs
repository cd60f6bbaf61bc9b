//! Which server is the master of which names. Pure.

use redis::ConnectionAddr;

/// How many slots a Redis Cluster has.
pub(super) const SLOTS: usize = 16_384;
/// Stands for a slot without a master.
pub(super) const UNASSIGNED: u16 = u16::MAX;

/// The masters, and which slots each of them has.
#[derive(Debug, PartialEq, Eq)]
pub struct Topology {
    masters: Vec<ConnectionAddr>,
    /// For each slot the number of its master; empty if there is one master for all names.
    slots: Vec<u16>,
}

impl Topology {
    /// One master for all names.
    pub(super) fn single(master: ConnectionAddr) -> Self {
        Self { masters: vec![master], slots: Vec::new() }
    }

    /// Several masters; `slots` has for each slot the number of its master, or [`UNASSIGNED`].
    pub(super) fn sharded(masters: Vec<ConnectionAddr>, slots: Vec<u16>) -> Self {
        Self { masters, slots }
    }

    /// The masters' addresses.
    pub fn masters(&self) -> &[ConnectionAddr] {
        &self.masters
    }

    /// The address of the master of a key or channel; `None` if its slot has none.
    pub fn address_of(&self, name: &str) -> Option<&ConnectionAddr> {
        self.master_of(name).map(|master| &self.masters[master])
    }

    /// The number of the master of a key or channel; `None` if its slot has none.
    pub fn master_of(&self, name: &str) -> Option<usize> {
        if self.slots.is_empty() {
            return Some(0);
        }
        self.slots
            .get(slot_of(name.as_bytes()))
            .filter(|master| **master != UNASSIGNED)
            .map(|n| usize::from(*n))
    }
}

/// The slot of a name: of what stands between its first braces, if anything does (Redis Cluster specification,
/// "Hash tags").
pub(super) fn slot_of(name: &[u8]) -> usize {
    let tag = name.iter().position(|b| *b == b'{').and_then(|open| {
        let inside = &name[open + 1..];
        inside.iter().position(|b| *b == b'}').map(|close| &inside[..close])
    });
    usize::from(crc16(tag.filter(|tag| !tag.is_empty()).unwrap_or(name))) % SLOTS
}

/// CRC16 as XMODEM has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc: u16, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // By CLUSTER KEYSLOT.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (name, slot) in [("foo", 12_182), ("bar", 5_061), ("", 0), ("carillon:global", 6_498)] {
            assert_eq!(slot_of(name.as_bytes()), slot, "{name}");
        }
        assert_eq!(slot_of(b"a{foo}b{bar}"), 12_182);
        assert_eq!(slot_of(b"{}foo"), usize::from(crc16(b"{}foo")) % SLOTS);
        assert_eq!(slot_of(b"x{{bar}}"), slot_of(b"{bar"));
    }
}
