//! Connections to the database for each kind of work, so that none waits for those of another.

/// For what a connection is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Appending, the head poll, and what a node reads for its listeners: what the cluster stands on.
    Log,
    /// Who asks, and for whom an event is.
    Authentication,
    /// What streams read that resume or want a history.
    Replay,
    /// Everything else: the inbox, its counts, accounts, removing what is old.
    Requests,
}

/// The fewest connections that can be shared out.
pub const MIN_CONNECTIONS: u32 = 5;

impl Pool {
    /// Each, in the order of their numbers.
    pub(super) const ALL: [Self; 4] = [Self::Log, Self::Authentication, Self::Replay, Self::Requests];
}

/// How many connections each pool holds at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSizes([u32; 4]);

impl PoolSizes {
    /// Shares out `total`, at least [`MIN_CONNECTIONS`]: 3 for the log (2 of fewer than 8: one writes, one looks at the
    /// head, one reads); of the rest a quarter for authentication, a third for replay, and what is left for requests.
    pub fn share(total: u32) -> Self {
        let total = total.max(MIN_CONNECTIONS);
        let log = if total < 8 { 2 } else { 3 };
        let rest = total - log;
        let (authentication, replay) = (rest.div_ceil(4), rest / 3);
        Self([log, authentication, replay, rest - authentication - replay])
    }

    /// As many in each.
    pub fn each(size: u32) -> Self {
        Self([size.max(1); 4])
    }

    /// Connections of one pool.
    pub fn of(self, pool: Pool) -> u32 {
        self.0[pool as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_is_shared_out_and_no_pool_is_empty() {
        assert_eq!(PoolSizes::share(10), PoolSizes([3, 2, 2, 3]));
        for total in 0..200 {
            let sizes = PoolSizes::share(total).0;
            assert_eq!(sizes.iter().sum::<u32>(), total.max(MIN_CONNECTIONS), "{sizes:?}");
            assert!(sizes[0] >= 2 && sizes.iter().all(|size| *size > 0), "{sizes:?}");
        }
    }
}
