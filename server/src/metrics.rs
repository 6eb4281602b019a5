//! [`ServerStatus::publish_metrics`]: a server's counts for the facade `metrics`.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::close_reason::{CloseReason, Deadline};
use crate::status::ServerStatus;

impl ServerStatus {
    /// Publishes these counts to the recorder of this moment. `server` is the label that tells this
    /// server from the others of the program.
    ///
    /// Call this before each reading: in the handler that renders the metrics, or in the loop that
    /// pushes them. The server has no task for this. Without a recorder the call does nothing.
    ///
    /// | metric | kind | labels |
    /// |---|---|---|
    /// | `millpond_connections` | gauge | `server`, `state`: `active`, `parked` |
    /// | `millpond_send_buffered_bytes` | gauge | `server` |
    /// | `millpond_accepted_total` | counter | `server` |
    /// | `millpond_accept_errors_total` | counter | `server` |
    /// | `millpond_refused_total` | counter | `server`, `limit`: `max_connections`, `max_connections_per_ip` |
    /// | `millpond_closed_total` | counter | `server`, `reason`: that of the [`CloseReason`] |
    /// | `millpond_requests_total` | counter | `server`; frames of a framed protocol, requests of HTTP |
    /// | `millpond_turns_total` | counter | `server` |
    /// | `millpond_received_bytes_total`, `millpond_sent_bytes_total` | counter | `server` |
    ///
    /// A pool is published by [`Pool::publish_metrics`](millpond::Pool::publish_metrics).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use metrics_exporter_prometheus::PrometheusBuilder;
    /// use millpond_server::Server;
    /// use tokio_util::codec::LinesCodec;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let prometheus = PrometheusBuilder::new().install_recorder()?;
    /// let echo = tower::service_fn(|line: String| async { Ok::<_, Infallible>(Some(line)) });
    /// let server = Server::builder().listen("127.0.0.1:0").codec(LinesCodec::new()).serve(echo)?;
    ///
    /// server.status().publish_metrics("echo");
    /// let page = prometheus.render();
    /// assert!(page.contains(r#"millpond_connections{server="echo",state="parked"} 0"#));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "prometheus")]
    pub fn publish_metrics(&self, server: &str) {
        describe();
        let active = self.open.saturating_sub(self.parked);
        for (state, connections) in [("active", active), ("parked", self.parked)] {
            gauge!("millpond_connections", &labels(server, "state", state)).set(connections as f64);
        }
        for (limit, connections) in [
            ("max_connections", self.refused_full),
            ("max_connections_per_ip", self.refused_per_ip),
        ] {
            counter!("millpond_refused_total", &labels(server, "limit", limit))
                .absolute(connections);
        }
        for (reason, connections) in self.reasons() {
            counter!("millpond_closed_total", &labels(server, "reason", name_of(reason)))
                .absolute(connections);
        }
        for (name, count) in [
            ("millpond_accepted_total", self.accepted),
            ("millpond_accept_errors_total", self.accept_errors),
            ("millpond_requests_total", self.frames),
            ("millpond_turns_total", self.turns),
            ("millpond_received_bytes_total", self.bytes_in),
            ("millpond_sent_bytes_total", self.bytes_out),
        ] {
            counter!(name, "server" => server.to_owned()).absolute(count);
        }
        gauge!("millpond_send_buffered_bytes", "server" => server.to_owned())
            .set(self.send_buffered as f64);
    }
}

/// The labels of a metric of a server that has a second label.
fn labels(server: &str, key: &'static str, value: &str) -> [(&'static str, String); 2] {
    [("server", server.to_owned()), (key, value.to_owned())]
}

/// The variant's name in snake case, with that of its deadline.
fn name_of(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Peer => "peer",
        CloseReason::ClosedByServer => "closed_by_server",
        CloseReason::Deadline(Deadline::FirstByte) => "deadline_first_byte",
        CloseReason::Deadline(Deadline::Handshake) => "deadline_handshake",
        CloseReason::Deadline(Deadline::Frame) => "deadline_frame",
        CloseReason::Deadline(Deadline::Idle) => "deadline_idle",
        CloseReason::Deadline(Deadline::Body) => "deadline_body",
        CloseReason::Deadline(Deadline::Write) => "deadline_write",
        CloseReason::Deadline(Deadline::MaxAge) => "deadline_max_age",
        CloseReason::SlowReader => "slow_reader",
        CloseReason::FrameTooLarge => "frame_too_large",
        CloseReason::Codec => "codec",
        CloseReason::Service => "service",
        CloseReason::Panicked => "panicked",
        CloseReason::Io => "io",
        CloseReason::Tls => "tls",
        CloseReason::PoolClosed => "pool_closed",
        CloseReason::Shutdown => "shutdown",
        CloseReason::Aborted => "aborted",
        CloseReason::MaxAge => "max_age",
        CloseReason::MaxRequests => "max_requests",
    }
}

fn describe() {
    describe_gauge!("millpond_connections", Unit::Count, "Open connections, by state.");
    describe_gauge!(
        "millpond_send_buffered_bytes",
        Unit::Bytes,
        "Bytes that wait for peers to take them."
    );
    describe_counter!("millpond_accepted_total", Unit::Count, "Connections that came.");
    describe_counter!("millpond_accept_errors_total", Unit::Count, "Errors of accept.");
    describe_counter!("millpond_refused_total", Unit::Count, "Refused connections, by limit.");
    describe_counter!("millpond_closed_total", Unit::Count, "Ended connections, by reason.");
    describe_counter!(
        "millpond_requests_total",
        Unit::Count,
        "Requests, or frames, that were read."
    );
    describe_counter!("millpond_turns_total", Unit::Count, "Turns of serving a connection.");
    describe_counter!("millpond_received_bytes_total", Unit::Bytes, "Bytes that were read.");
    describe_counter!("millpond_sent_bytes_total", Unit::Bytes, "Bytes that were written.");
}
