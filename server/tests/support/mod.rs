//! What the tests of the servers share, beside the probes of the pool's tests.
#![allow(dead_code, unreachable_pub)]

pub mod chat;
#[cfg(feature = "http")]
pub mod http;
#[path = "../../../tests/support/mod.rs"]
mod probes;
pub mod server;

pub use probes::*;
