//! A bounded task pool for tokio.
#![deny(unsafe_code)]
#![warn(missing_docs)]

mod blocking;
mod error;
mod group;
mod observe;
mod pool;
mod sync;

pub use crate::blocking::{Blocking, blocking};
pub use crate::error::{Closed, ConfigError, JobError, Panic, ScheduleError, TryScheduleError};
pub use crate::group::{Group, GroupBuilder, GroupSchedule, GroupTryGo, Next, Outcome, Wait};
pub use crate::pool::{
    AbortHandle, AbortOnDrop, AnywayGo, Builder, JobHandle, Nested, Pool, Report, Schedule, Status,
    TryGo,
};
