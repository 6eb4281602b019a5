//! The examples, run as the programs they are.
#![allow(missing_docs)]

#[path = "../../../tests/support/program.rs"]
mod program;

mod framed;
#[cfg(all(feature = "http", unix))]
mod http;
#[cfg(all(feature = "http", feature = "metrics", unix))]
mod prometheus;
#[cfg(all(feature = "http", unix))]
mod sockets;
