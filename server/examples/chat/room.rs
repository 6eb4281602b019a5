//! The room: who is in, and what is said.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use millpond_server::{CloseReason, Handler, TrySendError};

use crate::common::Error;

/// The longest name, in characters.
const NAME: usize = 24;

/// A line, encoded for each of its many readers, but held once.
type Line = Arc<str>;
type Connection = millpond_server::Connection<Line, Seat>;

#[derive(Default)]
pub struct Room(Mutex<Inside>);

#[derive(Default)]
struct Inside {
    peers: HashMap<u64, Connection>,
    names: HashSet<String>,
}

/// What is known of a connection. Nobody has a name before they have told one; listeners have none.
pub struct Seat {
    number: u64,
    name: OnceLock<String>,
}

impl Default for Seat {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { number: NEXT.fetch_add(1, Relaxed), name: OnceLock::new() }
    }
}

impl Handler for Room {
    type In = String;
    type Out = Line;
    type State = Seat;

    async fn on_open(&self, peer: &Connection) -> Result<(), Error> {
        tell(peer, "* your name? (none: you listen)");
        Ok(())
    }

    async fn on_frame(&self, peer: &Connection, line: String) -> Result<(), Error> {
        // Readers may be terminals, which obey control characters.
        let line: String = line.trim().chars().filter(|c| !c.is_control()).collect();
        let mut inside = self.lock();
        match (peer.state().name.get(), &*line) {
            (_, "/quit") => peer.close(),
            (_, "/who") => tell(peer, &inside.who()),
            (None, "") => inside.listen(peer),
            (None, name) => inside.enter(peer, name),
            (Some(_), "") => {}
            (Some(name), words) => inside.say(&format!("{name}: {words}")),
        }
        Ok(())
    }

    fn on_close(&self, peer: &Connection, _reason: CloseReason) {
        let mut inside = self.lock();
        inside.peers.remove(&peer.state().number);
        if let Some(name) = peer.state().name.get() {
            inside.names.remove(name);
            inside.say(&format!("* {name} has left"));
        }
    }
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn listen(&mut self, peer: &Connection) {
        self.peers.insert(peer.state().number, peer.clone());
        tell(peer, "* you listen");
    }

    fn enter(&mut self, peer: &Connection, name: &str) {
        if name.chars().count() > NAME {
            return tell(peer, "* too long; your name?");
        }
        if !self.names.insert(name.to_owned()) {
            return tell(peer, "* taken; your name?");
        }
        // The frames of a connection come one after another: it has no name still.
        let _ = peer.state().name.set(name.to_owned());
        self.peers.insert(peer.state().number, peer.clone());
        self.say(&format!("* {name} has come"));
    }

    fn who(&self) -> String {
        let mut names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        names.sort_unstable();
        format!("* {}, and {} who listen", names.join(", "), self.peers.len() - names.len())
    }

    /// Sends a line to all. With the room locked, so that all hear all in the same order: a send
    /// does not wait.
    fn say(&self, line: &str) {
        let line = Line::from(line);
        for peer in self.peers.values() {
            send(peer, &line);
        }
    }
}

fn tell(peer: &Connection, line: &str) {
    send(peer, &Line::from(line));
}

/// Who cannot be told something is closed rather than left without it. It leaves the room when
/// `on_close` is called for it.
fn send(peer: &Connection, line: &Line) {
    if let Err(TrySendError::Full(_)) = peer.try_send(line.clone()) {
        peer.close();
    }
}
