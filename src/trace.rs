//! Spans and events. Called by all, calls none; without the feature `tracing` it is empty.

#[cfg(feature = "tracing")]
pub(crate) use with_tracing::*;
#[cfg(not(feature = "tracing"))]
pub(crate) use without::*;

/// Sends an event with the pool's name; compiles to nothing without the feature `tracing`.
macro_rules! event {
    ($level:ident, $($rest:tt)*) => {
        // Subscribers are user code.
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

    /// The span a job runs in: the one that was current where it was submitted..
    ///
    /// Boxed: most jobs have none, and those should be small.
    #[derive(Default)]
    pub(crate) struct JobSpan(Option<Box<Span>>);

    impl JobSpan {
        #[inline]
        pub(crate) fn current(wanted: bool) -> Self {
            if !wanted || !tracing::dispatcher::has_been_set() {
                return Self(None);
            }
            let span = Span::current();
            Self((!span.is_none()).then(|| Box::new(span)))
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
    /// Stands for the span of a job where there are none.
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
