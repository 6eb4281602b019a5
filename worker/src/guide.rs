//! The guide: pages of `docs/` for rustdoc, which also runs their examples.

#[doc = include_str!("../docs/rustdoc-links.md")]
#[doc = include_str!("../docs/delivery.md")]
pub mod delivery {}

#[doc = include_str!("../docs/rustdoc-links.md")]
#[doc = include_str!("../docs/sizing.md")]
pub mod sizing {}

#[doc = include_str!("../docs/rustdoc-links.md")]
#[doc = include_str!("../docs/sources.md")]
pub mod sources {}
