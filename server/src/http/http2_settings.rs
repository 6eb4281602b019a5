//! [`Http2`]: the settings of HTTP/2, and the timer that hyper needs for its pings.
//!
//! `Config` (`crate::builder`) holds and checks the settings; `http2.rs` gives them to hyper. Hyper panics
//! at some values, so the check must refuse those before.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::server::conn::http2::Builder;
use pin_project_lite::pin_project;

use millpond::ConfigError;

use crate::builder::YEAR;
use crate::sync::failpoint;

/// The largest window of HTTP/2.
const MAX_WINDOW: u32 = (1 << 31) - 1;
/// The sizes of a frame that HTTP/2 allows.
const FRAME_SIZES: std::ops::RangeInclusive<u32> = 16_384..=16_777_215;

/// The settings of HTTP/2, for [`ServerBuilder::http2`](crate::http::ServerBuilder::http2).
///
/// What is not set has hyper's default. A peer learns of most of these settings when its connection begins.
/// Sizes are in bytes.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use millpond_server::http::{Http2, Server};
///
/// let http2 = Http2::new()
///     .max_concurrent_streams(100)
///     .keep_alive_interval(Duration::from_secs(20))
///     .keep_alive_timeout(Duration::from_secs(10));
/// let builder = Server::builder().listen("127.0.0.1:0").http2(http2);
/// # let _ = builder;
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "the settings do nothing until a builder has them"]
pub struct Http2 {
    max_concurrent_streams: Option<u32>,
    initial_stream_window_size: Option<u32>,
    initial_connection_window_size: Option<u32>,
    adaptive_window: Option<bool>,
    max_frame_size: Option<u32>,
    max_header_list_size: Option<u32>,
    max_send_buffer_size: Option<usize>,
    max_pending_accept_reset_streams: Option<usize>,
    max_local_error_reset_streams: Option<usize>,
    keep_alive_interval: Option<Duration>,
    keep_alive_timeout: Option<Duration>,
}

impl Http2 {
    /// Returns settings that leave all to hyper.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many streams a peer may have open at once. Default 200.
    pub fn max_concurrent_streams(mut self, streams: u32) -> Self {
        self.max_concurrent_streams = Some(streams);
        self
    }

    /// How many bytes of one request body may be on their way. Default 1 MiB.
    #[doc(alias = "backpressure")]
    pub fn initial_stream_window_size(mut self, bytes: u32) -> Self {
        self.initial_stream_window_size = Some(bytes);
        self
    }

    /// How many bytes of all request bodies of a connection may be on their way. Default 1 MiB.
    #[doc(alias = "backpressure")]
    pub fn initial_connection_window_size(mut self, bytes: u32) -> Self {
        self.initial_connection_window_size = Some(bytes);
        self
    }

    /// Whether the windows follow the bandwidth and the round trip of the connection. Then the two sizes of
    /// windows have no effect. Default `false`.
    pub fn adaptive_window(mut self, enabled: bool) -> Self {
        self.adaptive_window = Some(enabled);
        self
    }

    /// The largest frame that a peer may send: 16,384 to 16,777,215. Default 16,384.
    pub fn max_frame_size(mut self, bytes: u32) -> Self {
        self.max_frame_size = Some(bytes);
        self
    }

    /// The largest list of headers of a request, decoded. Default 16 KiB.
    pub fn max_header_list_size(mut self, bytes: u32) -> Self {
        self.max_header_list_size = Some(bytes);
        self
    }

    /// How many bytes of each response may wait to be sent. Default about 400 KiB.
    pub fn max_send_buffer_size(mut self, bytes: usize) -> Self {
        self.max_send_buffer_size = Some(bytes);
        self
    }

    /// How many streams a peer may reset before the server has accepted them. Beyond that, the connection
    /// is closed. Default 20.
    #[doc(alias = "rapid reset")]
    pub fn max_pending_accept_reset_streams(mut self, streams: usize) -> Self {
        self.max_pending_accept_reset_streams = Some(streams);
        self
    }

    /// How many streams the server resets for errors of the peer. Beyond that, the connection is closed.
    /// Default 1,024.
    #[doc(alias = "rapid reset")]
    pub fn max_local_error_reset_streams(mut self, streams: usize) -> Self {
        self.max_local_error_reset_streams = Some(streams);
        self
    }

    /// How often the server pings a peer that sends nothing. Default: never.
    ///
    /// Pings and their answers are bytes that move: a peer that answers is not idle, and the keep-alive
    /// timeout of the builder does not close its connection.
    #[doc(alias = "ping")]
    pub fn keep_alive_interval(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.keep_alive_interval = interval.into();
        self
    }

    /// How long a peer may take to answer a ping. Then the connection is closed. Default 20 s.
    #[doc(alias = "ping")]
    pub fn keep_alive_timeout(mut self, timeout: Duration) -> Self {
        self.keep_alive_timeout = Some(timeout);
        self
    }

    /// Refuses what HTTP/2 does not allow.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let windows = [
            ("http2.initial_stream_window_size", self.initial_stream_window_size),
            ("http2.initial_connection_window_size", self.initial_connection_window_size),
        ];
        for (field, value) in windows {
            if let Some(value) = value.filter(|value| !(1..=MAX_WINDOW).contains(value)) {
                return Err(ConfigError::new(field, value, "from 1 to 2147483647 bytes"));
            }
        }
        if let Some(size) = self.max_frame_size.filter(|size| !FRAME_SIZES.contains(size)) {
            let accepted = "from 16384 to 16777215 bytes";
            return Err(ConfigError::new("http2.max_frame_size", size, accepted));
        }
        let numbers = [
            ("http2.max_concurrent_streams", self.max_concurrent_streams.map(u64::from)),
            ("http2.max_header_list_size", self.max_header_list_size.map(u64::from)),
            ("http2.max_send_buffer_size", self.max_send_buffer_size.map(|size| size as u64)),
        ];
        for (field, value) in numbers {
            // Hyper takes no larger buffer.
            if let Some(value) = value.filter(|value| !(1..=u64::from(u32::MAX)).contains(value)) {
                return Err(ConfigError::new(field, value, "a number from 1 to 4294967295"));
            }
        }
        let durations = [
            ("http2.keep_alive_interval", self.keep_alive_interval),
            ("http2.keep_alive_timeout", self.keep_alive_timeout),
        ];
        for (field, value) in durations {
            // Hyper adds them to an `Instant`, which panics far beyond a year.
            if let Some(value) = value.filter(|value| value.is_zero() || *value > YEAR) {
                let accepted = "more than zero and at most a year";
                return Err(ConfigError::new(field, format!("{value:?}"), accepted));
            }
        }
        Ok(())
    }

    /// Gives the settings to hyper.
    pub(super) fn apply<E>(&self, builder: &mut Builder<E>) {
        // As `axum::serve` does: a WebSocket over HTTP/2 is an extended CONNECT.
        builder.enable_connect_protocol().timer(Clock);
        macro_rules! apply {
            ($($field:ident => $setter:ident),+ $(,)?) => {$(
                let is_kept = failpoint("HTTP/2 keeps its defaults");
                if let Some(value) = self.$field.filter(|_| !is_kept) {
                    builder.$setter(value);
                }
            )+};
        }
        apply!(
            max_concurrent_streams => max_concurrent_streams,
            initial_stream_window_size => initial_stream_window_size,
            initial_connection_window_size => initial_connection_window_size,
            adaptive_window => adaptive_window,
            max_frame_size => max_frame_size,
            max_header_list_size => max_header_list_size,
            max_send_buffer_size => max_send_buf_size,
            max_pending_accept_reset_streams => max_pending_accept_reset_streams,
            max_local_error_reset_streams => max_local_error_reset_streams,
            keep_alive_interval => keep_alive_interval,
            keep_alive_timeout => keep_alive_timeout,
        );
    }
}

/// tokio's timer, for hyper.
struct Clock;

pin_project! {
    struct Sleep {
        #[pin]
        sleep: tokio::time::Sleep,
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().sleep.poll(cx)
    }
}

impl hyper::rt::Sleep for Sleep {}

impl hyper::rt::Timer for Clock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Sleep { sleep: tokio::time::sleep(duration) })
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Sleep { sleep: tokio::time::sleep_until(deadline.into()) })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer learns of some settings only. hyper's builder shows all of them.
    #[test]
    fn each_setting_reaches_hyper() {
        let shown = |settings: Http2| {
            let mut builder = Builder::new(());
            settings.apply(&mut builder);
            format!("{builder:?}")
        };
        let second = Duration::from_secs(1);
        let cases = [
            (Http2::new().max_concurrent_streams(3), "max_concurrent_streams: Some(3)"),
            (Http2::new().initial_stream_window_size(7_001), "initial_stream_window_size: 7001"),
            (Http2::new().initial_connection_window_size(7_002), "initial_conn_window_size: 7002"),
            (Http2::new().adaptive_window(true), "adaptive_window: true"),
            (Http2::new().max_frame_size(20_000), "max_frame_size: 20000"),
            (Http2::new().max_header_list_size(5_000), "max_header_list_size: 5000"),
            (Http2::new().max_send_buffer_size(7_003), "max_send_buffer_size: 7003"),
            (
                Http2::new().max_pending_accept_reset_streams(4),
                "max_pending_accept_reset_streams: Some(4)",
            ),
            (
                Http2::new().max_local_error_reset_streams(5),
                "max_local_error_reset_streams: Some(5)",
            ),
            (Http2::new().keep_alive_interval(6 * second), "keep_alive_interval: Some(6s)"),
            (Http2::new().keep_alive_timeout(7 * second), "keep_alive_timeout: 7s"),
        ];
        let default = shown(Http2::new());
        assert!(default.contains("enable_connect_protocol: true"), "{default}");
        for (settings, part) in cases {
            let shown = shown(settings);
            assert!(shown.contains(part) && !default.contains(part), "{part}: {shown}");
        }
    }
}
