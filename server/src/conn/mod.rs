//! The life of a connection, in either mode.

pub(crate) mod buffers;
pub(crate) mod events;
pub(crate) mod guard;
pub(crate) mod linger;
pub(crate) mod listener_conns;
pub(crate) mod notifier;
pub(crate) mod protocol;
pub(crate) mod server_state;
pub(crate) mod table;
pub(crate) mod timer_wheel;
pub(crate) mod transport;
