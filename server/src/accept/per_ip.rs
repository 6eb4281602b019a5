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

/// One connection in its origin's count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PerIpPermit(u32);

impl PerIpPermit {
    pub(crate) const UNCOUNTED: Self = Self(u32::MAX);
}

/// Counts only origins that have a connection, so it is no larger than the number of those.
pub(crate) struct PerIpCounts {
    limit: Option<usize>,
    keys: HashMap<Origin, u32>,
    counts: Slab<(Origin, usize)>,
}

impl PerIpCounts {
    pub(crate) fn new(limit: Option<usize>) -> Self {
        Self { limit, keys: HashMap::new(), counts: Slab::new() }
    }

    /// Counts a connection; none if its origin has its quota already. Without a quota, and for
    /// Unix sockets, nothing is counted.
    pub(crate) fn acquire(&mut self, address: &Address) -> Option<PerIpPermit> {
        let (Some(limit), Some(ip)) = (self.limit, address.ip()) else {
            return Some(PerIpPermit::UNCOUNTED);
        };
        let origin = Origin::of(ip);
        let counts = &mut self.counts;
        let key = *self.keys.entry(origin).or_insert_with(|| counts.insert((origin, 0)) as u32);
        let count = &mut self.counts[key as usize].1;
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(PerIpPermit(key))
    }

    pub(crate) fn release(&mut self, permit: PerIpPermit) {
        if permit == PerIpPermit::UNCOUNTED {
            return;
        }
        let (origin, count) = &mut self.counts[permit.0 as usize];
        *count -= 1;
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
    fn the_table_holds_no_more_than_is_open() {
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
    fn without_a_quota_and_for_unix_sockets_nothing_is_counted() {
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
