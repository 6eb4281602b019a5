//! A bounded task pool for tokio.
#![deny(unsafe_code)]
#![warn(missing_docs)]

mod blocking;
mod error;
mod observe;
mod pool;
mod sync;

pub use crate::blocking::{Blocking, blocking};
pub use crate::error::{Closed, ConfigError, JobError, Panic, ScheduleError, TryScheduleError};
pub use crate::pool::{
    AbortHandle, AbortOnDrop, AnywayGo, Builder, JobHandle, Nested, Pool, Report, Schedule, Status, TryGo,
};
