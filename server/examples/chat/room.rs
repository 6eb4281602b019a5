//! The room: its connections and names, and the broadcast.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use millpond_server::{CloseReason, Handler, TrySendError};

use crate::common::Error;

/// The longest name, in characters.
const NAME: usize = 24;

/// A line, shared by the sends to all readers.
type Line = Arc<str>;
type Connection = millpond_server::Connection<Line, Seat>;

#[derive(Default)]
pub struct Room(Mutex<Inside>);

#[derive(Default)]
struct Inside {
    connections: HashMap<u64, Connection>,
    names: HashSet<String>,
}

/// The state of a connection. Its first line sets the name; a listener has none.
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

    async fn on_open(&self, connection: &Connection) -> Result<(), Error> {
        tell(connection, "* your name? (none: you listen)");
        Ok(())
    }

    async fn on_frame(&self, connection: &Connection, line: String) -> Result<(), Error> {
        // A reader may be a terminal, which obeys control characters.
        let line: String = line.trim().chars().filter(|c| !c.is_control()).collect();
        let mut inside = self.lock();
        match (connection.state().name.get(), &*line) {
            (_, "/quit") => connection.close(),
            (_, "/who") => tell(connection, &inside.who()),
            (None, "") => inside.listen(connection),
            (None, name) => inside.enter(connection, name),
            (Some(_), "") => {}
            (Some(name), words) => inside.say(&format!("{name}: {words}")),
        }
        Ok(())
    }

    fn on_close(&self, connection: &Connection, _reason: CloseReason) {
        let mut inside = self.lock();
        inside.connections.remove(&connection.state().number);
        if let Some(name) = connection.state().name.get() {
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
    fn listen(&mut self, connection: &Connection) {
        self.connections.insert(connection.state().number, connection.clone());
        tell(connection, "* you listen");
    }

    fn enter(&mut self, connection: &Connection, name: &str) {
        if name.chars().count() > NAME {
            return tell(connection, "* too long; your name?");
        }
        if !self.names.insert(name.to_owned()) {
            return tell(connection, "* taken; your name?");
        }
        // The name is still unset: the frames of a connection are served one after another.
        let _ = connection.state().name.set(name.to_owned());
        self.connections.insert(connection.state().number, connection.clone());
        self.say(&format!("* {name} has come"));
    }

    fn who(&self) -> String {
        let mut names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        names.sort_unstable();
        format!("* {}, and {} who listen", names.join(", "), self.connections.len() - names.len())
    }

    /// Sends a line to all connections. The room is locked, so all readers get the same order. A
    /// `try_send` never waits, so the lock is held briefly.
    fn say(&self, line: &str) {
        let line = Line::from(line);
        for connection in self.connections.values() {
            send(connection, &line);
        }
    }
}

fn tell(connection: &Connection, line: &str) {
    send(connection, &Line::from(line));
}

/// Sends a line, or closes a connection that has no room for it. `on_close` then removes the
/// connection from the room.
fn send(connection: &Connection, line: &Line) {
    if let Err(TrySendError::Full(_)) = connection.try_send(line.clone()) {
        connection.close();
    }
}
