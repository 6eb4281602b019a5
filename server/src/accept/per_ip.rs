//! The limit of connections per peer.
//!
//! A counter belongs to an *origin*: an IPv4 address, or an IPv6 network of 64 bits. A provider
//! gives each customer such a network at least, so single IPv6 addresses would limit nothing.
//!
//! `ServerState` owns the counts, under the lock of `ServerState::conns`. `ServerState::admit`
//! acquires a [`PerIpPermit`] for each connection, and `ServerState::on_close` releases the permit.

use std::collections::HashMap;
use std::net::IpAddr;

use slab::Slab;

use crate::accept::address::Address;
use crate::sync::failpoint;

/// What connections are counted by. An IPv4-mapped IPv6 address counts as its IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Origin {
    V4(u32),
    V6(u64),
}

impl Origin {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.into()),
            IpAddr::V6(address) => Self::V6((u128::from(address) >> 64) as u64),
        }
    }
}

/// The part of one connection in the count of its origin: an index into `counts`. The permit has no
/// `Drop`, because a table entry stores it in four bytes. The owner of the entry releases it (A4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PerIpPermit(u32);

impl PerIpPermit {
    /// The permit of a connection that no counter includes.
    pub(crate) const UNCOUNTED: Self = Self(u32::MAX);
}

/// The number of connections of each origin. An origin without connections has no counter, so the
/// map is never larger than the number of open connections.
pub(crate) struct PerIpCounts {
    limit: Option<usize>,
    keys: HashMap<Origin, u32>,
    counts: Slab<(Origin, usize)>,
}

impl PerIpCounts {
    /// `limit`: the most connections of one origin, or `None` for no limit.
    pub(crate) fn new(limit: Option<usize>) -> Self {
        Self { limit, keys: HashMap::new(), counts: Slab::new() }
    }

    /// Returns the limit; the largest number without one.
    pub(crate) fn limit(&self) -> usize {
        self.limit.unwrap_or(usize::MAX)
    }

    /// Counts a connection. Returns `None` if its origin has reached the limit. Without a limit,
    /// and for Unix sockets, returns [`PerIpPermit::UNCOUNTED`].
    pub(crate) fn acquire(&mut self, address: &Address) -> Option<PerIpPermit> {
        let (Some(limit), Some(ip)) = (self.limit, address.ip()) else {
            return Some(PerIpPermit::UNCOUNTED);
        };
        let origin = Origin::of(ip);
        let counts = &mut self.counts;
        let key = *self.keys.entry(origin).or_insert_with(|| counts.insert((origin, 0)) as u32);
        let count = &mut self.counts[key as usize].1;
        if *count >= limit + usize::from(failpoint("one connection of an address too many")) {
            return None;
        }
        *count += 1;
        Some(PerIpPermit(key))
    }

    /// Takes a connection out of its origin's count.
    pub(crate) fn release(&mut self, permit: PerIpPermit) {
        if permit == PerIpPermit::UNCOUNTED {
            return;
        }
        let (origin, count) = &mut self.counts[permit.0 as usize];
        *count -= usize::from(!failpoint("closed connections of an address count"));
        if *count == 0 {
            self.keys.remove(origin);
            self.counts.remove(permit.0 as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::Tcp((text.parse::<IpAddr>().unwrap(), 1).into())
    }

    #[test]
    fn an_origin_is_an_ipv4_address_or_an_ipv6_network() {
        let mut counts = PerIpCounts::new(Some(2));
        let one = counts.acquire(&address("10.0.0.1")).unwrap();
        counts.acquire(&address("::ffff:10.0.0.1")).unwrap();
        assert_eq!(counts.acquire(&address("10.0.0.1")), None);
        counts.acquire(&address("10.0.0.2")).unwrap();

        counts.acquire(&address("2001:db8::1")).unwrap();
        counts.acquire(&address("2001:db8::2")).unwrap();
        assert_eq!(counts.acquire(&address("2001:db8::3")), None);
        counts.acquire(&address("2001:db8:0:1::1")).unwrap();

        counts.release(one);
        counts.acquire(&address("10.0.0.1")).unwrap();
        assert_eq!(counts.acquire(&address("10.0.0.1")), None);
    }

    #[test]
    fn an_origin_without_connections_has_no_counter() {
        let mut counts = PerIpCounts::new(Some(1));
        for round in 0..100_000u32 {
            let ip = IpAddr::from(round.to_be_bytes());
            let permit = counts.acquire(&Address::Tcp((ip, 1).into())).unwrap();
            counts.release(permit);
        }
        assert!(counts.keys.is_empty() && counts.counts.is_empty());
        assert!(counts.counts.capacity() < 8, "{}", counts.counts.capacity());
    }

    #[test]
    fn without_a_limit_and_for_unix_sockets_nothing_is_counted() {
        let mut counts = PerIpCounts::new(None);
        let permit = counts.acquire(&address("10.0.0.1")).unwrap();
        counts.release(permit);
        let mut counts = PerIpCounts::new(Some(1));
        for _ in 0..3 {
            counts.acquire(&Address::Unix).unwrap();
        }
        assert!(counts.keys.is_empty());
    }
}
