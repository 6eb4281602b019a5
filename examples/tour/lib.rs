//! The tour of README; see `main.rs`.
