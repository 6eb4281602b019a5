//! The two places where a connection waits: an entry of the table, or a task of its own.
//!
//! | place | what the entry holds | the socket is registered with |
//! |---|---|---|
//! | parked | the stream and the idle state: [`Parked`] | the inner epoll of its listener |
//! | a task | what task and table share: [`TaskEntry`]; the task keeps the rest | tokio |
//!
//! In the event-driven mode a connection begins as a parked one. `parked/conn_worker` gives a busy one
//! a task, HTTP or framed, and that task parks it when it is idle (`conn/park.rs`). In the dedicated mode each
//! connection has a task from its begin to its end. In both a busy connection with a task is warm: the task
//! keeps the future of its turns and hyper's connection, until the connection is idle.
//!
//! A connection changes its place between turns only, when its stream is plain. Its entry stays, and
//! with the entry its key, permit, deadline, age and requests to close. The kernel reports readiness
//! anew with each registration, so no byte is missed.

use std::sync::Arc;

use crate::conn::edge_socket::EdgeSocket;
use crate::conn::table::ParkedState;
use crate::conn::task_entry::TaskEntry;
use crate::conn::transport::MaybeTls;
use crate::trace::ConnSpan;

/// What the entry of a connection holds while the connection waits.
pub(crate) enum Rest<I> {
    Parked(Parked<I>),
    Task(Arc<TaskEntry>),
}

/// A connection without a task.
pub(crate) struct Parked<I> {
    pub(crate) io: MaybeTls<EdgeSocket>,
    pub(crate) idle: I,
    pub(crate) span: ConnSpan,
}

impl<I: Send + 'static> ParkedState for Rest<I> {
    fn task(&self) -> Option<&Arc<TaskEntry>> {
        match self {
            Self::Parked(_) => None,
            Self::Task(task) => Some(task),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::table;
    use crate::framed::service::IdleConn;

    #[test]
    fn a_parked_connection_is_small() {
        let size = table::entry_size::<Rest<IdleConn<()>>>();
        assert!(size <= 56, "{size}");
    }
}
