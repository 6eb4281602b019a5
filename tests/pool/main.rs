//! What the pool and its groups promise, part by part.
#![allow(missing_docs)]

#[path = "../support/nest.rs"]
mod nest;
#[path = "../support/mod.rs"]
mod support;

mod abort;
mod abort_races;
mod accounting_model;
mod auto_traits;
mod blocking;
mod closed;
mod coop;
mod deadlines;
mod dropped_mid_wait;
mod fairness;
mod full;
mod groups;
mod groups_end;
mod groups_stream;
mod groups_verdict;
mod handles;
mod held_slots;
mod helpers;
mod jobs;
mod keys;
mod lending;
mod lending_waits;
mod lifecycle;
mod nested;
mod nested_shrinks;
mod overload;
mod owned;
mod panics;
mod panics_in_callbacks;
mod pause;
mod peaks;
mod pool_dropped;
mod priority;
mod quota;
mod reserver;
mod resize;
mod runtime_dropped;
mod runtime_reborn;
mod slots;
#[cfg(feature = "tracing")]
mod spans;
mod status;
mod timings;
mod within;
mod workers;
