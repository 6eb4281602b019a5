//! The life of a connection, in either mode.
//!
//! `accept` hands a new socket to a mode: `parked` (event-driven) or `task` (dedicated). The mode
//! owns the socket, and this room has everything that both modes share. Of each connection it keeps
//! one entry in the connection table of its listener. A *turn* serves the connection until the
//! socket would block; `framed` and `http` implement turns.
//!
//! | file | content |
//! |---|---|
//! | `server_state` | the state of a server: settings, limits, counts, bytes to be sent |
//! | `table` | the connection table: entries and their phases |
//! | `key` | the name of a connection in its table |
//! | `wait` | what a connection waits for, and what its next turn is told |
//! | `task_entry` | the part of an entry that a connection's task uses without the lock |
//! | `warm_list` | the connections that may have to give up their tasks |
//! | `rest`, `park` | the two places where a connection waits; the ways there |
//! | `edge_socket`, `tokio_socket` | the socket of a connection without a task, and with one |
//! | `age` | the ages of connections, if there is a maximal age |
//! | `timer_wheel` | the deadlines of the entries |
//! | `events` | what can happen to a connection, and what a parked connection waits for |
//! | `listener_conns` | the connections of a listener: table, lock, wakers, timer |
//! | `notifier` | the handle that reaches a connection from outside |
//! | `wake_on_events` | the wrapper of a suspended turn |
//! | `guard` | the owner of an active connection |
//! | `protocol` | the interface to `framed` and `http` |
//! | `transport` | the socket, or a TLS session over it |
//! | `buffers` | the buffers of turns |
//! | `linger` | the lingering close |
//! | `last_request` | the moment in which an idle connection may still send a request |
//!
//! Each file imports only files that stand earlier in this order: `events`, `timer_wheel`,
//! `wait`, `key`, `warm_list`, `task_entry`, `table`, `age`, `buffers`, `server_state`, `notifier`,
//! `transport`, `edge_socket`, `tokio_socket`, `rest`, `protocol`, `linger`, `last_request`,
//! `listener_conns`, `wake_on_events`, `guard`, `park`.
//!
//! # The phases of an entry
//!
//! ```text
//!            insert                 park: no event that it waits for
//!   ┌──────┐ ───────▶ ┌────────┐ ──────────────────────────────────▶ ┌────────┐
//!   │ Free │          │ Active │ ◀─────────────────────────── drain ─ │ Parked │
//!   └──────┘ ◀─────── └────────┘                                      └────────┘
//!            remove     ▲    │                                            │
//!                       │    │ park: such an event has come               │ deliver,
//!        next_ready,    │    ▼                                            │ request_close,
//!        drain        ┌───────┐                                           │ tick
//!                     │ Ready │ ◀─────────────────────────────────────────┘
//!                     └───────┘
//! ```
//!
//! `remove` of an entry that is parked or ready takes the entry first. A ready entry stands in the ready
//! queue, and workers take the front.
//!
//! A connection with a task has one phase more: `begin_task` changes `Active` to `Task`, and `end_task`
//! changes it back. Meanwhile the task itself says when it waits and for what (`task_entry`), and
//! events wake the task.
//!
//! An `Active` entry, or one with a task, is in one of four situations, which the table does not
//! distinguish:
//!
//! | situation | the owner |
//! |---|---|
//! | new | the mode's `accept`, until the first park |
//! | served | the turn, on a worker or in the connection's task |
//! | suspended | the turn. Without a task, or as a job, its waker is in `State::suspended` or `State::waiting` |
//! | detached | the value that `Outcome::Detached` gave to the new owner of the socket |
//!
//! # Which part may touch what
//!
//! | field | written by |
//! |---|---|
//! | `generation`, `permit` | `insert`, `remove` |
//! | `phase` | the calls in the picture |
//! | `events` | the poller, `ConnNotifier` and the timer add; turns take |
//! | `close_requested` | `ConnNotifier::close`, a shutdown |
//! | `park_reason`, deadline | `park`, called by the owner |
//! | links of the wheel | `insert`, the timer |
//! | `parked_state` | `park` and `begin_task` store it; the next owner moves it out |
//!
//! These fields are read and written under the listener's lock. The stream, the idle state and the
//! counters of an active connection are in its `ConnGuard`; its owner needs no lock for them (C1).
//!
//! Without a task `parked_state` holds the stream and the idle state. A task keeps both, and
//! `parked_state` holds what it shares with the table: its waker, its events and its deadline.
//!
//! # A round
//!
//! 1. An event comes: [`Events`](events::Events) from the poller, a `ConnNotifier` or the timer.
//!    The table adds the event to the entry. If the entry becomes ready, the worker or task is
//!    woken.
//! 2. The next owner takes the entry, or the task ends its wait: its events go into the
//!    [`TurnInput`](wait::TurnInput), and a [`ConnGuard`](guard::ConnGuard) holds the connection.
//! 3. The turn runs without the lock. Events that come meanwhile stay in the entry. If the turn
//!    waits for user code, those in `Protocol::INTEREST` wake it.
//! 4. The turn ends with an [`Outcome`](protocol::Outcome). `Park` goes back to step 1. `Close`
//!    drops the guard. `Detached` gives the guard away, and its drop comes later.
//!
//! # The end of a connection
//!
//! A request to close is an event: `CLOSE_REQUESTED` with a reason, or with `EXPIRED`. It makes a
//! parked connection ready, and its turn decides. Only the drop of a `ConnGuard` ends a connection.
//! Some ends need no decision of a turn: a failed registration, a pool that is closed, a panic, a
//! kill, and the grace of an age that passes while user code is under way
//! (`CloseReason::drops_calls`). The owner of a detached connection decides for itself.
//!
//! A *kill* is the end of the server: the drop of `Server`, the deadline of a shutdown, or an error
//! of the inner epoll. First `ServerState::killed` is set. Then `drain_parked` takes all parked
//! entries and all wakers of each listener, those of tasks too.
//!
//! # Locks
//!
//! `ListenerConns::state` and `ServerState::conns` are never held together. The lock of the `warm_list` is
//! taken under the first; no other lock of this crate is taken under either. A connection's end takes the
//! first, releases it, and takes the second.
//!
//! # Invariants
//!
//! - **C1, one owner.** An active entry has exactly one owner, and only the owner parks or removes
//!   it. `next_ready` and `drain_parked` return neither an active entry nor one with a task. So no
//!   connection is served twice at once. (test: `the_table_agrees_with_the_model`)
//! - **C2, keys.** `remove` changes the generation. So a key or a socket event that outlives its
//!   connection reaches no later one. (test: `a_key_does_not_outlive_its_connection`)
//! - **C3, events.** An event stays in the entry until a turn takes the event: as input, or while
//!   suspended. `park` looks at the events under the lock that changes the phase. So no event is
//!   lost between a turn and its park.
//!   (test: `an_event_of_an_active_connection_is_kept_until_it_is_parked`)
//! - **C4, ready.** An entry in `Parked` has no event that its `ParkReason` wakes on. A ready queue
//!   has each entry in `Ready` once, and no other. Its order is the order in which they became
//!   ready. (test: `the_table_agrees_with_the_model`)
//! - **C5, deadlines.** A deadline of a parked connection never expires early, and at most a tick
//!   late, but for `listener_conns::TIMER_PRECISION`. A turn learns of it once, and decides with the
//!   socket's state. (tests: `a_deadline_is_never_early_and_a_tick_late_at_most`,
//!   `a_deadline_expires_once`)
//! - **C6, close reasons.** A request to close stays until the entry is removed. A later request
//!   replaces it only with a reason of higher rank.
//!   (test: `the_close_reason_of_the_higher_rank_stays`)
//! - **C7, suspended turns.** A suspended turn misses no event of its `INTEREST`. `suspend` stores
//!   the waker and looks at the events under one lock; a delivery looks for the waker under the
//!   same lock. (tests: `a_suspended_turn_misses_no_event`, `server/push.rs`)
//! - **C8, kill.** Every connection of a killed server ends. Each path that parks a connection or
//!   stores a waker reads `killed` afterwards, or before under the same lock. So either the kill
//!   finds the entry or the waker, or the path finds the flag. (test: `server/shutdown.rs`)
//! - **C9, end.** An admitted connection ends exactly once, also after a panic. The socket is
//!   closed first, then the protocol's `on_close` runs, then the entry and the permit are released.
//!   So `ServerState::empty` is ready after the last `on_close`. (tests: `server/handler.rs`,
//!   `server/limits.rs`)
//! - **C10, locks.** No user code runs under a lock of this room, and nothing is awaited there.
//!   Wakers are woken after the unlock; only wakers of tokio's tasks may be woken before, as `each`
//!   does. Wakers are cloned and dropped under the lock: they belong to tasks, jobs of the pool or
//!   `http`, so this changes a count of references only. Parked states are dropped after the unlock.
//! - **C11, bytes.** `SendBuffered::total` is the sum of all `BytesPermit`s. A permit subtracts its
//!   bytes when it is dropped. (tests: `server/push.rs`, `server/slow.rs`)

mod age;
pub(crate) mod buffers;
pub(crate) mod edge_socket;
pub(crate) mod events;
pub(crate) mod guard;
pub(crate) mod key;
#[cfg(feature = "http")]
pub(crate) mod last_request;
pub(crate) mod linger;
pub(crate) mod listener_conns;
pub(crate) mod notifier;
pub(crate) mod park;
pub(crate) mod protocol;
pub(crate) mod rest;
pub(crate) mod server_state;
pub(crate) mod table;
pub(crate) mod task_entry;
pub(crate) mod timer_wheel;
pub(crate) mod tokio_socket;
pub(crate) mod transport;
pub(crate) mod wait;
pub(crate) mod wake_on_events;
mod warm_list;
