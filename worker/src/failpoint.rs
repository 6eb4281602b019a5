//! Slips that `scripts/mutants` switches on.

/// Whether the failpoint `name` is on. The code then makes a slip, and a test must fail:
/// `scripts/mutants` knows which.
///
/// The environment variable `MILLPOND_FAILPOINT` names the failpoint. Without the feature `__mutants`
/// every failpoint is off, and the branch compiles to nothing.
#[cfg(feature = "__mutants")]
pub(crate) fn failpoint(name: &str) -> bool {
    static NAME: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    NAME.get_or_init(|| std::env::var("MILLPOND_FAILPOINT").ok()).as_deref() == Some(name)
}

#[cfg(not(feature = "__mutants"))]
#[inline(always)]
pub(crate) fn failpoint(_name: &str) -> bool {
    false
}
