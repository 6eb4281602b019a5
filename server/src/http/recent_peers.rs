//! The addresses of peers that a thread has served lately.
//!
//! A request carries the address of its peer, and a parked connection does not keep that address: it
//! would make each record larger by a half. The kernel knows the address, for a system call. So each
//! thread remembers the addresses of some connections, and a busy connection asks the kernel once.
//!
//! What must never happen: a connection gets the address of another. An address is found by the id of
//! the table and the key with its generation, which no other connection has (C2).

use std::cell::RefCell;
use std::io;

use crate::accept::address::Address;
use crate::conn::key::ConnKey;

/// How many addresses a thread remembers: 24 KiB.
const KEPT: usize = 512;

/// The connection and the address of its peer.
type Recent = Option<((u64, ConnKey), Address)>;

thread_local! {
    static RECENT: RefCell<Vec<Recent>> = const { RefCell::new(Vec::new()) };
}

/// Returns the address of a connection's peer. Asks `peer_addr` if this thread does not remember it.
pub(super) fn peer(
    id: (u64, ConnKey),
    peer_addr: impl FnOnce() -> io::Result<Address>,
) -> io::Result<Address> {
    RECENT.with_borrow_mut(|recent| {
        if recent.is_empty() {
            recent.resize(KEPT, None);
        }
        let place = &mut recent[id.1.index as usize % KEPT];
        match place {
            Some((of, address)) if *of == id => Ok(*address),
            _ => {
                let address = peer_addr()?;
                *place = Some((id, address));
                Ok(address)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_belongs_to_one_connection() {
        let key = |index, generation| ConnKey { index, generation };
        let address = |port| Address::Tcp(([127, 0, 0, 1], port).into());
        // Another table, a later connection in the same entry, and an entry with the same place.
        let others = [(1, key(3, 0)), (0, key(3, 1)), (0, key(3 + KEPT as u32, 0))];
        for other in others {
            for (id, port) in [((0, key(3, 0)), 1), (other, 2)] {
                assert_eq!(peer(id, || Ok(address(port))).unwrap(), address(port));
                assert_eq!(peer(id, || unreachable!()).unwrap(), address(port));
            }
        }
    }
}
