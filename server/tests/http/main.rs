//! What HTTP servers promise, part by part.
#![cfg(feature = "http")]
#![allow(missing_docs)]

#[path = "../support/mod.rs"]
mod support;

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
mod states;
mod upgrades;
mod version2;
mod warm;
#[cfg(feature = "ws")]
mod websocket;
#[cfg(feature = "ws")]
mod websocket_memory;
