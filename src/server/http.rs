//! HTTP by hyper, over connections that are parked between requests.
//!
//! A connection at rest is `Cold`: a record and a socket. When bytes come, a burst reads them; what
//! is not a whole head yet is held as it is. With a whole head a hyper connection is built over the
//! bytes and a loan of the socket, and polled until it waits. If it waits for the peer the record
//! is parked, hyper's state with it, and no slot is held; if it waits for user code the burst is
//! suspended. Once all is answered and flushed, and no byte is left over, hyper's state is spare:
//! the next connection that thaws has it. Or it is kept in a set of those that were busy last.

mod body;
mod burst;
mod flow;
mod gate;
mod head;
mod http2;
mod loan;
mod options;
mod running;
mod short;
mod spare;
mod thawed;
mod warm;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::server::conn::http1;

pub use self::body::RequestBody;
pub use self::options::{Http, Park};
pub use self::running::Server;
pub use self::short::{Serve, serve};

use self::burst::Burst;
use self::gate::App;
use self::spare::Spares;
use self::warm::{Rested, Token, Warm};
use super::address::Address;
use super::builder::Plan;
use super::io::Wire;
use super::nudge::Nudge;
use super::protocol::{Outcome, Protocol, Turn};
use super::reason::CloseReason;
use super::signal::Signal;

/// What all connections of a server share.
pub(super) struct Web<A> {
    app: A,
    warm: Warm,
    spares: Spares,
    http1: http1::Builder,
    /// Without keep-alive.
    http1_last: http1::Builder,
    keep_alive: Option<Duration>,
    /// Requests tell who the peer is.
    connect_info: bool,
    thawed: Count,
}

impl<A: App> Web<A> {
    fn new(app: A, plan: &Plan) -> Self {
        let mut http1 = http1::Builder::new();
        // Deadlines are the server's.
        http1.header_read_timeout(None).max_header_size(plan.max_frame);
        let mut http1_last = http1.clone();
        http1_last.keep_alive(false);
        let (warm, thawed) = (Warm::new(plan.park), Count::default());
        let (keep_alive, connect_info) = (plan.deadlines.idle, plan.connect_info);
        let spares = Spares::new();
        Self { app, warm, spares, http1, http1_last, keep_alive, connect_info, thawed }
    }
}

/// How many there are.
#[derive(Debug, Clone, Default)]
pub(super) struct Count(Arc<AtomicUsize>);

impl Count {
    fn one(&self) -> One {
        self.0.fetch_add(1, Relaxed);
        One(self.clone())
    }

    fn get(&self) -> usize {
        self.0.load(Relaxed)
    }
}

struct One(Count);

impl Drop for One {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// What is kept of a connection.
pub(super) enum Idle {
    /// When it came to rest last.
    Cold(Rested),
    /// Hyper's state is in the warm set, unless others have pushed it out.
    Warm(Token),
    Busy(Box<Busy>),
}

impl Idle {
    const NEW: Self = Self::Cold(Rested::NEVER);
}

/// A connection in the middle of something.
pub(super) enum Busy {
    /// The bytes of a head that is not whole.
    Head { bytes: Box<[u8]>, is_new: bool },
    /// Hyper's state, and the socket with it.
    Thawed(Box<dyn Any + Send>),
    /// It is closed for this, and only waits for the peer to go.
    Lingers(CloseReason),
}

impl<A: App> Protocol for Web<A> {
    type Idle = Idle;

    const OPENS: bool = false;

    const HEARS: Signal = Signal::WAKING;

    fn arrive(&self, _address: Address, _nudge: Nudge) -> Idle {
        Idle::NEW
    }

    async fn burst<W: Wire>(&self, turn: Turn<'_, W, Idle>) -> Outcome {
        Burst::new(self, turn).await
    }

    fn closed(&self, idle: Idle, _reason: CloseReason) {
        if let Idle::Warm(token) = idle {
            drop(self.warm.take(token));
        }
    }

    fn tick(&self) {
        self.warm.expire();
        self.spares.tick();
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::Parked;
    use super::super::lot;
    use super::Idle;

    #[test]
    fn a_parked_connection_is_small() {
        let size = lot::record_size::<Parked<Idle>>();
        assert!(size <= 64, "{size}");
    }
}
