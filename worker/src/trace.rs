//! Events and spans. Without the feature `tracing` both compile to nothing.
//!
//! The names are those of OpenTelemetry's conventions for messaging.

/// Sends an event with the target `millpond`.
macro_rules! event {
    ($level:ident, $($rest:tt)*) => {{
        #[cfg(feature = "tracing")]
        tracing::event!(target: "millpond", tracing::Level::$level, $($rest)*)
    }};
}
pub(crate) use event;

#[cfg(feature = "tracing")]
pub(crate) use tracing::{Instrument, Span};

#[cfg(feature = "tracing")]
use crate::receipt::Receipt;
use crate::source::Source;

/// A span in a build without spans: nothing.
#[cfg(not(feature = "tracing"))]
#[derive(Clone)]
pub(crate) struct Span;

/// What [`Worker::on_span`](crate::Worker::on_span) was given.
#[cfg(feature = "tracing")]
pub(crate) type OnSpan<M> = Option<Box<dyn Fn(&Span, &M) + Send + Sync>>;

#[cfg(not(feature = "tracing"))]
pub(crate) type OnSpan<M> = std::marker::PhantomData<fn(&M)>;

/// Makes the span of a delivery. Its jobs run inside it.
#[cfg(feature = "tracing")]
pub(crate) fn message_span<S: Source>(
    source: &S,
    message: &S::Message,
    receipt: &S::Receipt,
    on_span: &OnSpan<S::Message>,
) -> Span {
    let span = tracing::info_span!(
        target: "millpond",
        "process",
        otel.kind = "consumer",
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.system = source.system(),
        messaging.destination.name = source.destination(),
        messaging.message.id = receipt.id(),
        messaging.message.delivery_attempt = receipt.deliveries(),
        traceparent = receipt.trace_context(),
    );
    if let Some(on_span) = on_span {
        on_span(&span, message);
    }
    span
}

#[cfg(not(feature = "tracing"))]
pub(crate) fn message_span<S: Source>(
    _source: &S,
    _message: &S::Message,
    _receipt: &S::Receipt,
    _on_span: &OnSpan<S::Message>,
) -> Span {
    Span
}

/// Polls a future inside a span.
#[cfg(feature = "tracing")]
pub(crate) fn in_span<F: Future>(span: Span, future: F) -> tracing::instrument::Instrumented<F> {
    future.instrument(span)
}

#[cfg(not(feature = "tracing"))]
pub(crate) fn in_span<F: Future>(_span: Span, future: F) -> F {
    future
}

/// Polls a future inside the span that is current now.
#[cfg(feature = "tracing")]
pub(crate) fn in_current_span<F: Future>(future: F) -> tracing::instrument::Instrumented<F> {
    in_span(Span::current(), future)
}

#[cfg(not(feature = "tracing"))]
pub(crate) fn in_current_span<F: Future>(future: F) -> F {
    future
}

/// Calls `f` inside a span.
#[cfg(feature = "tracing")]
pub(crate) fn enter<T>(span: &Span, f: impl FnOnce() -> T) -> T {
    span.in_scope(f)
}

#[cfg(not(feature = "tracing"))]
pub(crate) fn enter<T>(_span: &Span, f: impl FnOnce() -> T) -> T {
    f()
}
