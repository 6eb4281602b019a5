//! Shared by the tests of the servers. `probes` is the pool's test support.
#![allow(dead_code, unreachable_pub)]

pub mod chat;
#[cfg(feature = "http")]
pub mod http;
pub mod other_runtime;
#[path = "../../../tests/support/mod.rs"]
mod probes;
pub mod server;

pub use probes::*;
