//! How a connection goes to rest, changes its place, and is closed there.
//!
//! Callers are the modes, which own active connections. `rest.rs` has the two places.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::close_reason::CloseReason;
use crate::conn::edge_socket::EdgeSocket;
use crate::conn::events::ParkReason;
use crate::conn::guard::ConnGuard;
use crate::conn::key::ConnKey;
use crate::conn::listener_conns::ListenerConns;
use crate::conn::protocol::Protocol;
use crate::conn::rest::{Parked, Rest};
use crate::conn::server_state::Counters;
use crate::conn::tokio_socket::TokioSocket;

/// A connection without a task that is being served.
pub(crate) type EventConn<P> = ConnGuard<P, EdgeSocket>;
/// A connection that has a task, owned by that task or by the job of a turn.
pub(crate) type TaskConn<P> = ConnGuard<P, TokioSocket>;

/// Registers the socket of a connection with the inner epoll, and parks the connection.
pub(crate) fn watch<P: Protocol>(
    mut conn: EventConn<P>,
    registry: &Registry,
    park_reason: (ParkReason, bool),
) {
    let transport = conn.body.as_mut().and_then(|(io, _)| io.transport());
    let fd = transport.map(|socket| socket.as_raw_fd());
    // E1: this registration lasts until the socket is closed, or the connection gets a task.
    let both = Interest::READABLE | Interest::WRITABLE;
    match fd.map(|fd| registry.register(&mut SourceFd(&fd), token(conn.key), both)) {
        Some(Ok(())) => park(conn, park_reason),
        _ => conn.end(CloseReason::Io),
    }
}

/// Moves the socket of a plain connection from the inner epoll to tokio. Closes the connection if that
/// fails.
pub(crate) fn to_task<P: Protocol>(conn: EventConn<P>, registry: &Registry) -> Option<TaskConn<P>> {
    conn.with_socket(|socket| {
        // An error would leave a registration that ends with the socket.
        let _ = registry.deregister(&mut SourceFd(&socket.as_raw_fd()));
        let (socket, is_unix) = socket.into_socket();
        TokioSocket::new(socket, is_unix)
    })
}

/// Moves the socket of a plain connection from tokio to the inner epoll, and parks the connection.
/// Gives back a connection with a TLS session.
pub(crate) fn to_parked<P: Protocol>(
    conn: TaskConn<P>,
    registry: &Registry,
    park_reason: (ParkReason, bool),
) -> Result<(), TaskConn<P>> {
    if !conn.is_plain() {
        return Err(conn);
    }
    conn.conns.lock().table.end_task(conn.key);
    let moved = conn.with_socket(|socket| {
        let (socket, is_unix) = socket.into_socket()?;
        Ok(EdgeSocket::new(socket, is_unix))
    });
    if let Some(conn) = moved {
        watch(conn, registry, park_reason);
    }
    Ok(())
}

/// Returns the token of the inner epoll for a connection (E2).
fn token(key: ConnKey) -> Token {
    Token((u64::from(key.generation) << 32 | u64::from(key.index)) as usize)
}

/// Returns the connection of a token.
pub(crate) fn key(token: Token) -> ConnKey {
    ConnKey { index: token.0 as u32, generation: (token.0 as u64 >> 32) as u32 }
}

/// Parks a connection that is registered with the inner epoll.
fn park<P: Protocol>(conn: EventConn<P>, park_reason: (ParkReason, bool)) {
    let conns = conn.conns.clone();
    if let Some((key, rest, counters)) = into_rest(conn) {
        conns.park(key, rest, park_reason, &counters);
    }
    // A kill that ran before the park has not found this connection (E5).
    if conns.is_killed() {
        kill(&conns);
    }
}

/// Takes apart a connection that is to be parked. Returns `None` if the server was killed: then the
/// connection is dropped, which closes it.
pub(crate) fn into_rest<P: Protocol>(
    mut conn: EventConn<P>,
) -> Option<(ConnKey, Rest<P::Idle>, Counters)> {
    if conn.conns.is_killed() {
        return None;
    }
    let (io, idle) = conn.body.take()?;
    let span = std::mem::take(&mut conn.span);
    Some((conn.key, Rest::Parked(Parked { io, idle, span }), conn.counters))
}

/// Closes all connections without tasks, and wakes the tasks and the suspended turns of the others, which
/// end then (C8).
pub(crate) fn kill<P: Protocol>(conns: &Arc<ListenerConns<P>>) {
    for (key, rest) in conns.drain_parked() {
        if let Rest::Parked(Parked { io, idle, span }) = rest {
            drop(EventConn::new(conns.clone(), (key, span), (io, idle)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_its_key() {
        let all = ConnKey { index: u32::MAX - 1, generation: u32::MAX };
        for expected in
            [all, ConnKey { index: 3, generation: 0 }, ConnKey { index: 0, generation: 7 }]
        {
            assert_eq!(key(token(expected)), expected);
        }
    }
}
