//! What the layer and the executor of hyper promise.
#![allow(missing_docs)]

#[cfg(feature = "tower")]
#[path = "../support/probe.rs"]
mod probe;
#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "http-body")]
mod bodies;
#[cfg(feature = "tower")]
mod calls;
#[cfg(feature = "tower")]
mod contract;
#[cfg(feature = "tower")]
mod counts;
#[cfg(feature = "hyper")]
mod hyper_executor;
