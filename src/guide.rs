//! The guide: pages of `docs/guide/` for rustdoc, which also runs their examples.
//!
//! Each page is one Markdown file that GitHub shows as well. The links of a page are defined twice:
//! `docs/rustdoc-links.md` stands first, so rustdoc uses its definitions and checks them. The
//! definitions at the end of a page serve all other readers.
//!
//! The tests hold the copies of the verb table and of the accounting law to their one source.

macro_rules! pages {
    ($($(#[$attribute:meta])* $name:ident: $file:literal;)*) => {$(
        $(#[$attribute])*
        #[doc = include_str!("../docs/rustdoc-links.md")]
        #[doc = include_str!(concat!("../docs/guide/", $file))]
        pub mod $name {}
    )*};
}

pages! {
    verbs: "verbs.md";
    groups: "groups.md";
    #[cfg(feature = "http-body")]
    layer: "layer.md";
    #[cfg(feature = "tower")]
    overload: "overload.md";
    shutdown: "shutdown.md";
    #[cfg(feature = "tower")]
    tuning: "tuning.md";
    seeing: "seeing.md";
    testing: "testing.md";
    migrating: "migrating.md";
    buffered: "buffered.md";
    comparison: "comparison.md";
    when_not: "when-not.md";
}

#[cfg(test)]
mod tests {
    const VERBS: &str = include_str!("../docs/verbs-table.md");
    const LAW: &str = include_str!("../docs/accounting-law.md");

    #[test]
    fn readme_and_guide_carry_the_verb_table() {
        for page in [include_str!("../README.md"), include_str!("../docs/guide/verbs.md")] {
            assert!(page.contains(VERBS), "the table differs from docs/verbs-table.md");
        }
    }

    #[test]
    fn the_guide_carries_the_texts_of_refusals() {
        use crate::SubmitErrorKind::*;
        let page = include_str!("../docs/guide/verbs.md");
        for kind in [
            Full,
            GroupFull,
            TimedOut,
            WouldDeadlock,
            Closed,
            GroupClosed,
            GroupFailed,
            RuntimeGone,
        ] {
            let row = format!("| `{kind:?}` | {kind} |");
            assert!(page.contains(&row), "the text of {kind:?} differs from `Display`");
        }
    }

    #[test]
    fn the_guide_carries_the_accounting_law() {
        let page = include_str!("../docs/guide/overload.md");
        assert!(page.contains(LAW), "the law differs from docs/accounting-law.md");
    }
}
