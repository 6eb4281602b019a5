//! What HTTP servers promise, part by part.
#![cfg(feature = "http")]
#![allow(missing_docs)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../../../tests/support/program.rs"]
mod program;

mod cases;
mod deadlines;
mod ends;
mod fairness;
mod last_request;
mod limits;
mod malformed;
mod pool;
mod rounds;
#[cfg(feature = "ws")]
mod runtimes;
mod server;
mod shutdown;
mod slow_readers;
#[cfg(target_os = "linux")]
mod slowloris;
mod states;
mod stress;
mod upgrades;
mod version2;
mod warm;
#[cfg(feature = "ws")]
mod websocket;
#[cfg(feature = "ws")]
mod websocket_memory;
