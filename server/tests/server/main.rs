//! What framed servers promise, part by part, and what their configuration means.
#![allow(missing_docs)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../../../tests/support/program.rs"]
mod program;

#[cfg(all(feature = "serde", unix))]
mod config;
#[cfg(all(feature = "serde", unix))]
mod config_errors;
#[cfg(all(feature = "serde", feature = "http"))]
mod config_http;
#[cfg(all(feature = "serde", unix))]
mod config_serves;
#[cfg(all(feature = "serde", feature = "rustls", unix))]
mod config_tls;
mod deadlines;
mod descriptors;
mod echo;
mod faults;
mod flood;
mod handler;
mod last_words;
mod limits;
mod listen;
mod pool;
mod push;
mod regressions;
mod reset;
mod rounds;
mod runtimes;
mod shutdown;
mod slow;
#[cfg(feature = "rustls")]
mod tls;
mod warm;
#[cfg(feature = "ws")]
mod websocket;
mod workers;
