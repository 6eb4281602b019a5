//! Spans and events. Without the feature `tracing` both compile to nothing.

#[cfg(feature = "tracing")]
pub(crate) use with_tracing::*;
#[cfg(not(feature = "tracing"))]
pub(crate) use without::*;

/// Sends an event with the target `millpond`. Compiles to nothing without the feature `tracing`.
macro_rules! event {
    ($level:ident, $($rest:tt)*) => {
        // A subscriber is user code and may panic.
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

    /// The span of a connection. Every turn of the connection runs inside the span.
    ///
    /// The box keeps a parked connection small: without a subscriber there is no span.
    #[derive(Default)]
    pub(crate) struct ConnSpan(Option<Box<Span>>);

    impl ConnSpan {
        /// Opens the span of a new connection. The span has no parent, because the accept loop would
        /// be that.
        pub(crate) fn connection(peer: &dyn std::fmt::Display) -> Self {
            if !tracing::dispatcher::has_been_set() {
                return Self(None);
            }
            let new = || tracing::info_span!(target: "millpond", parent: None, "connection", %peer);
            let span = crate::panic::catch(new).filter(|span| !span.is_disabled());
            Self(span.map(Box::new))
        }

        /// Calls `f` inside the span.
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
    /// The span of a connection in a build without spans: nothing.
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
