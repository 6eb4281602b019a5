//! The name of a connection in its table.

/// Names the entry of a connection. The generation tells the connection from those that use the
/// same entry earlier or later (C2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ConnKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}
