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
use crate::conn::notifier::ConnNotifier;
use crate::conn::table::ConnKey;

/// How many addresses a thread remembers: 24 KiB.
const KEPT: usize = 512;

thread_local! {
    static RECENT: RefCell<Vec<Option<((u64, ConnKey), Address)>>> = const { RefCell::new(Vec::new()) };
}

/// Returns the address of a connection's peer. Asks `peer_addr` if this thread does not remember it.
pub(super) fn peer(
    of: &ConnNotifier,
    peer_addr: impl FnOnce() -> io::Result<Address>,
) -> io::Result<Address> {
    let id = of.id();
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
