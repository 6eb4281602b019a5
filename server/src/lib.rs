//! A connection server for tokio where idle connections cost next to nothing.
//!
//! The same code runs in two modes, under the same limits and deadlines:
//!
//! - [`Mode::Dedicated`]: each connection has a task, and no buffer while it waits.
//! - [`Mode::EventDriven`]: an idle connection is *parked*. A parked connection has no task, no buffer
//!   and no timer. It is a record of some fifty bytes, its codec, and the socket. When bytes arrive, a
//!   *turn* serves the connection: in a short task, or in a slot of the server's
//!   [`Pool`](millpond::Pool), if it has one.
//!
//! A tokio-util codec makes frames. A tower service answers them ([`ServerBuilder::serve`]), or a
//! [`Handler`] ([`ServerBuilder::handle`]), which may send at any time through a [`Connection`].
//!
//! ```
//! use std::convert::Infallible;
//!
//! use millpond_server::{Mode, Server};
//! use tokio_util::codec::LinesCodec;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let shout = |line: String| async move { Ok::<_, Infallible>(Some(line.to_uppercase())) };
//! let server = Server::builder()
//!     .listen("127.0.0.1:0")
//!     .mode(Mode::EventDriven)
//!     .codec(LinesCodec::new_with_max_length(1024))
//!     .serve(tower::service_fn(shout))?;
//! println!("listening at {}", server.local_addrs()[0]);
//! let report = server.shutdown(std::time::Duration::from_secs(1)).await;
//! assert_eq!(report.still_open, 0);
//! # Ok(())
//! # }
//! ```
//!
//! The module `http` (feature `http`) serves an `axum::Router`, or any tower service of `http`
//! requests, the same way.
//!
//! # What bounds a server
//!
//! Every limit and deadline has a default, so a peer can make the server wait, but not grow without
//! bound.
//!
//! | against | settings |
//! |---|---|
//! | too many connections | [`max_connections`](ServerBuilder::max_connections), [`max_connections_per_ip`](ServerBuilder::max_connections_per_ip) |
//! | slowloris: bytes that trickle in | [`first_byte_timeout`](ServerBuilder::first_byte_timeout), [`frame_timeout`](ServerBuilder::frame_timeout) |
//! | peers that do not read | [`send_buffer`](ServerBuilder::send_buffer), [`send_buffer_total`](ServerBuilder::send_buffer_total), [`write_timeout`](ServerBuilder::write_timeout) |
//! | idle keep-alive connections | [`idle_timeout`](ServerBuilder::idle_timeout) |
//! | too much work at once | [`pool`](ServerBuilder::pool): while the pool is full, requests wait in the kernel (backpressure) |
//! | a stop that never ends | [`Server::shutdown`], [`drain_timeout`](ServerBuilder::drain_timeout): graceful, up to a deadline |
//!
//! # The guide
//!
//! | page | about |
//! |---|---|
//! | [`guide::server`] | modes, turns, the pool, limits, deadlines, closing, configuration, TLS |
//! | [`guide::http`] | HTTP: settings, the pool, what is parked and what is not, figures |
//!
//! The guide of [`millpond`](https://docs.rs/millpond) has pages on overload, shutdown and tuning.
//!
//! # Panics
//!
//! A panic of a service, a handler or a codec closes its connection and affects no other. The reason
//! is [`CloseReason::Panicked`].
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `tracing` (default) | events of the target `millpond`, and a span for each connection |
//! | `http` | the module `http` |
//! | `axum` | requests carry axum's `ConnectInfo` |
//! | `ws` | the module `ws`: WebSockets beside an axum app, parked; with `axum` |
//! | `serde` | `ServerConfig`: servers from a configuration file |
//! | `rustls` | TLS; the cryptography provider is your choice |
//! | `metrics` | `ServerStatus::publish_metrics`: counts for Prometheus, StatsD and others |
//!
//! # Platforms
//!
//! Unix with 64-bit addresses; measured on Linux.
//!
//! # Words
//!
//! - **connection**: a socket with its state. **turn**: one round of serving a connection, until its
//!   socket would block or its read budget is spent.
//! - **parked**: at rest, as an entry of the connection table.
//! - **slot**: the right to run one job of the pool; a turn holds one.
//! - **linger**: read and discard after the last answer, so that the answer arrives. **drain**: let
//!   connections finish during a shutdown.
//! - **overload response**: the bytes that a connection over a limit gets.
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod accept;
mod builder;
mod close_reason;
#[cfg(feature = "serde")]
// The file has all keys in every build: then some values only tell that they need a feature.
#[cfg_attr(not(all(feature = "http", feature = "rustls")), allow(dead_code))]
mod config;
mod conn;
mod descriptors;
mod error;
mod framed;
#[cfg(any(doc, doctest))]
pub mod guide;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "metrics")]
mod metrics;
mod panic;
mod parked;
// The fuzz targets are a crate of their own, so under cargo-fuzz the module is visible.
#[cfg(fuzzing)]
#[allow(missing_docs)]
pub mod scripted;
#[cfg(all(test, not(fuzzing)))]
#[allow(missing_docs, unreachable_pub)]
mod scripted;
mod server;
mod settings;
mod status;
mod sync;
mod task;
mod trace;
#[cfg(feature = "ws")]
pub mod ws;

pub use crate::accept::address::Address;
pub use crate::accept::listen::{IntoListen, Listen};
pub use crate::builder::ServerBuilder;
pub use crate::close_reason::{CloseReason, Deadline};
#[cfg(feature = "serde")]
pub use crate::config::{ServerConfig, ServerEntry};
pub use crate::descriptors::raise_descriptor_limit;
pub use crate::error::StartError;
pub use crate::framed::connection::{Connection, SendError, TrySendError};
pub use crate::framed::handler::Handler;
pub use crate::framed::service::BoxError;
pub use crate::server::Server;
pub use crate::settings::{Mode, SlowReader};
pub use crate::status::{ServerStatus, ShutdownReport};

#[cfg(all(doctest, feature = "axum"))]
#[doc = include_str!("../README.md")]
struct Readme;
