//! The examples, run as the programs they are.
#![allow(missing_docs)]

#[path = "../support/program.rs"]
mod program;
#[path = "../support/mod.rs"]
mod support;

#[cfg(all(feature = "http-body", unix))]
mod layer;
mod pool;
