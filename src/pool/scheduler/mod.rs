//! The scheduler: shards, workers, the idle list and the stall monitor.

pub(crate) mod complete;
pub(crate) mod idle;
pub(crate) mod poll_times;
pub(crate) mod shared;
pub(crate) mod wake;
pub(crate) mod worker;
