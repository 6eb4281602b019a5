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
        $crate::panic::catch_panic(
            || tracing::event!(target: "millpond", tracing::Level::$level, $($rest)*),
        );
    };
}
pub(crate) use event;

#[cfg(feature = "tracing")]
mod with_tracing {
    use tracing::Span;

    /// The span of a job: the span that was current at the submit.
    ///
    /// The box keeps jobs without a span small; most have none.
    #[derive(Default)]
    pub(crate) struct JobSpan(Option<Box<Span>>);

    impl JobSpan {
        /// Takes the current span, if `wanted` and if there is one.
        #[inline]
        pub(crate) fn current(wanted: bool) -> Self {
            if !wanted || !tracing::dispatcher::has_been_set() {
                return Self(None);
            }
            let span = Span::current();
            Self((!span.is_none()).then(|| Box::new(span)))
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
    /// The span of a job in a build without spans: nothing.
    #[derive(Default)]
    pub(crate) struct JobSpan;

    impl JobSpan {
        pub(crate) fn current(_wanted: bool) -> Self {
            Self
        }

        #[inline(always)]
        pub(crate) fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
            f()
        }
    }
}
