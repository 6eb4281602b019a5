//! The guide: pages of `docs/` for rustdoc, which also runs their examples.
//!
//! `docs/rustdoc-links.md` stands first, so rustdoc uses its link definitions and checks them. The
//! definitions at the end of a page are for other readers, such as GitHub.

#[doc = include_str!("../docs/rustdoc-links.md")]
#[doc = include_str!("../docs/server.md")]
pub mod server {}

#[cfg(feature = "http")]
#[doc = include_str!("../docs/rustdoc-links.md")]
#[doc = include_str!("../docs/http.md")]
pub mod http {}
