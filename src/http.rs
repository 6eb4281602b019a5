//! HTTP on hyper, with idle connections parked.
//!
pub use crate::server::http::{Http, Park, RequestBody, Serve, Server, serve};
