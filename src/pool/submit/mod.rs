//! The futures of the verbs, and slots without jobs.

pub(crate) mod caller_runs;
pub(crate) mod reserver;
pub(crate) mod schedule;
pub(crate) mod slot_guard;
pub(crate) mod submission;
pub(crate) mod try_go;
