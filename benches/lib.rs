//! Benchmarks of millpond and millpond-server; each is a program under `benches`.

use std::path::{Path, PathBuf};

/// Returns the path of a file that is named from the root of the checkout. Cargo runs a benchmark in the folder
/// of its package.
pub fn from_root(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
