//! [`raise_descriptor_limit`]: as many descriptors as the system lets the process open.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open descriptors of this process to its hard limit. Returns the new soft
/// limit.
///
/// Each connection takes a descriptor. A shell or service manager often sets a soft limit of 1,024,
/// beside a hard limit of many thousands. Call this function at the start of a program, before servers
/// start: the default of [`max_connections`](crate::ServerBuilder::max_connections) is half of the soft
/// limit. Child processes inherit the limit. Code that uses `select(2)` cannot have descriptors from
/// 1,024 on.
///
/// # Errors
///
/// The error of the system. Some systems refuse a soft limit without bound, although the hard limit has
/// none.
///
/// # Examples
///
/// ```
/// let descriptors = millpond_server::raise_descriptor_limit()?;
/// println!("up to {descriptors} descriptors");
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "ulimit")]
#[doc(alias = "RLIMIT_NOFILE")]
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum.unwrap_or(u64::MAX))
}
