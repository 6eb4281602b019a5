//! How many connections each address has.

use std::collections::HashMap;
use std::net::IpAddr;

use slab::Slab;

use crate::accept::address::Address;

/// Who connections are counted for: an IPv4 address, or an IPv6 network of 64 bits, which is the
/// least that one customer gets.
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

/// One connection's place in its origin's count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Visit(u32);

impl Visit {
    pub(crate) const UNCOUNTED: Self = Self(u32::MAX);
}

/// Counts only origins that have a connection, so it is no larger than the number of those.
pub(crate) struct Peers {
    quota: Option<usize>,
    places: HashMap<Origin, u32>,
    counts: Slab<(Origin, usize)>,
}

impl Peers {
    pub(crate) fn new(quota: Option<usize>) -> Self {
        Self { quota, places: HashMap::new(), counts: Slab::new() }
    }

    /// Counts a connection; none if its origin has its quota already. Without a quota, and for
    /// Unix sockets, nothing is counted.
    pub(crate) fn enter(&mut self, address: &Address) -> Option<Visit> {
        let (Some(quota), Some(ip)) = (self.quota, address.ip()) else {
            return Some(Visit::UNCOUNTED);
        };
        let origin = Origin::of(ip);
        let counts = &mut self.counts;
        let place = *self.places.entry(origin).or_insert_with(|| counts.insert((origin, 0)) as u32);
        let count = &mut self.counts[place as usize].1;
        if *count >= quota {
            return None;
        }
        *count += 1;
        Some(Visit(place))
    }

    pub(crate) fn leave(&mut self, visit: Visit) {
        if visit == Visit::UNCOUNTED {
            return;
        }
        let (origin, count) = &mut self.counts[visit.0 as usize];
        *count -= 1;
        if *count == 0 {
            self.places.remove(origin);
            self.counts.remove(visit.0 as usize);
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
        let mut peers = Peers::new(Some(2));
        let one = peers.enter(&address("10.0.0.1")).unwrap();
        peers.enter(&address("::ffff:10.0.0.1")).unwrap();
        assert_eq!(peers.enter(&address("10.0.0.1")), None);
        peers.enter(&address("10.0.0.2")).unwrap();

        peers.enter(&address("2001:db8::1")).unwrap();
        peers.enter(&address("2001:db8::2")).unwrap();
        assert_eq!(peers.enter(&address("2001:db8::3")), None);
        peers.enter(&address("2001:db8:0:1::1")).unwrap();

        peers.leave(one);
        peers.enter(&address("10.0.0.1")).unwrap();
        assert_eq!(peers.enter(&address("10.0.0.1")), None);
    }

    #[test]
    fn the_table_holds_no_more_than_is_open() {
        let mut peers = Peers::new(Some(1));
        for round in 0..100_000u32 {
            let ip = IpAddr::from(round.to_be_bytes());
            let visit = peers.enter(&Address::Tcp((ip, 1).into())).unwrap();
            peers.leave(visit);
        }
        assert!(peers.places.is_empty() && peers.counts.is_empty());
        assert!(peers.counts.capacity() < 8, "{}", peers.counts.capacity());
    }

    #[test]
    fn without_a_quota_and_for_unix_sockets_nothing_is_counted() {
        let mut peers = Peers::new(None);
        let visit = peers.enter(&address("10.0.0.1")).unwrap();
        peers.leave(visit);
        let mut peers = Peers::new(Some(1));
        for _ in 0..3 {
            peers.enter(&Address::Unix).unwrap();
        }
        assert!(peers.places.is_empty());
    }
}
