//! Spans and events; without the feature `tracing` this module is empty.

#[cfg(feature = "tracing")]
pub(crate) use with_tracing::*;
#[cfg(not(feature = "tracing"))]
pub(crate) use without::*;

/// Sends an event; compiles to nothing without the feature `tracing`.
macro_rules! event {
    ($level:ident, $($rest:tt)*) => {
        // Subscribers are user code.
        #[cfg(feature = "tracing")]
        $crate::panic::catch(
            || tracing::event!(target: "millpond", tracing::Level::$level, $($rest)*),
        );
    };
}
pub(crate) use event;

#[cfg(feature = "tracing")]
mod with_tracing {
    use tracing::Span;

    /// The span that a connection is served in.
    ///
    /// Boxed, so that a connection without a span stays small.
    #[derive(Default)]
    pub(crate) struct ConnSpan(Option<Box<Span>>);

    impl ConnSpan {
        /// Opens the span of a connection, which has no parent.
        pub(crate) fn connection(peer: &dyn std::fmt::Display) -> Self {
            if !tracing::dispatcher::has_been_set() {
                return Self(None);
            }
            let new = || tracing::info_span!(target: "millpond", parent: None, "connection", %peer);
            let span = crate::panic::catch(new).filter(|span| !span.is_disabled());
            Self(span.map(Box::new))
        }

        #[inline(always)]
        pub(crate) fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
            match &self.0 {
                None => f(),
                Some(span) => span.in_scope(f),
            }
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod without {
    /// Stands for the span of a connection where there are none.
    #[derive(Default)]
    pub(crate) struct ConnSpan;

    impl ConnSpan {
        pub(crate) fn connection(_peer: &dyn std::fmt::Display) -> Self {
            Self
        }

        #[inline(always)]
        pub(crate) fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
            f()
        }
    }
}
