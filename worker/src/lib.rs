//! A worker for brokers.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backoff;
mod by_key;
mod claims;
mod delivery;
mod error;
mod failure;
pub mod memory;
#[cfg(feature = "nats")]
#[cfg_attr(docsrs, doc(cfg(feature = "nats")))]
pub mod nats;
mod receipt;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub mod redis;
mod report;
mod source;
pub mod testing;
mod trace;
mod worker;

pub use crate::backoff::Backoff;
pub use crate::error::{ConnectError, WorkerError};
pub use crate::failure::{BoxError, Failure};
pub use crate::receipt::{DeadReason, Extend, Receipt, ReceiptError};
pub use crate::report::{JobCounts, Report};
pub use crate::source::{Batch, Source, SourceError};
pub use crate::worker::Worker;

/// The group of a message: its jobs return `Result<(), Failure>`.
///
/// The first failure cancels the other jobs, and later submits get their job back.
pub type Jobs = millpond::Group<Result<(), Failure>>;
