//! What a file says of HTTP servers.

use std::time::Duration;

use millpond_server::ServerEntry;
use millpond_server::http::{Http2, Server};

fn entry(text: &str) -> Result<ServerEntry, String> {
    let text = format!("listen = '127.0.0.1:0'\n{text}");
    toml::from_str(&text).map_err(|error| error.message().to_owned())
}

#[test]
fn each_key_is_what_the_builder_is_told() {
    let listening = || Server::builder().listen("127.0.0.1:0");
    let second = Duration::from_secs(1);
    let cases = [
        ("", listening()),
        ("http = {}", listening()),
        ("http.body_timeout = '1s'", listening().body_timeout(second)),
        ("http.body_timeout = 'never'", listening().body_timeout(None)),
        ("http.connect_info = false", listening().connect_info(false)),
        ("http.header_read_timeout = '1s'", listening().header_read_timeout(second)),
        ("http.header_read_timeout = 'never'", listening().header_read_timeout(None)),
        ("http.keep_alive_timeout = '1s'", listening().keep_alive_timeout(second)),
        ("http.max_header_size = '1KiB'", listening().max_header_size(1024)),
        ("http.shutdown_grace = '1s'", listening().shutdown_grace(second)),
        ("http.shutdown_grace = 'never'", listening().shutdown_grace(None)),
        #[cfg(feature = "ws")]
        (
            "http.websocket_ping_interval = '1s'",
            listening().websocket_ping_interval(Duration::from_secs(1)),
        ),
        #[cfg(feature = "ws")]
        ("http.websocket_ping_interval = 'never'", listening().websocket_ping_interval(None)),
        ("warm_connections = 9", listening().warm_connections(9)),
        ("http.half_close = true", listening().half_close(true)),
        ("http.max_requests_per_connection = 9", listening().max_requests_per_connection(9)),
        ("http.max_requests_per_connection = 'unlimited'", listening()),
        ("max_connection_age = '1s'", listening().max_connection_age(second)),
        (
            "max_connection_age = '2s'\nmax_connection_age_grace = '1s'",
            listening().max_connection_age(2 * second).max_connection_age_grace(second),
        ),
        (
            "[http.http2]\nmax_concurrent_streams = 9\ninitial_stream_window_size = '64KiB'\n\
             initial_connection_window_size = '1MiB'\nadaptive_window = false\n\
             max_frame_size = '32KiB'\nmax_header_list_size = '8KiB'\n\
             max_send_buffer_size = '1MiB'\nmax_pending_accept_reset_streams = 5\n\
             max_local_error_reset_streams = 6\nkeep_alive_interval = '1s'\n\
             keep_alive_timeout = '2s'",
            listening().http2(
                Http2::new()
                    .max_concurrent_streams(9)
                    .initial_stream_window_size(64 << 10)
                    .initial_connection_window_size(1 << 20)
                    .adaptive_window(false)
                    .max_frame_size(32 << 10)
                    .max_header_list_size(8 << 10)
                    .max_send_buffer_size(1 << 20)
                    .max_pending_accept_reset_streams(5)
                    .max_local_error_reset_streams(6)
                    .keep_alive_interval(second)
                    .keep_alive_timeout(2 * second),
            ),
        ),
        ("linger_timeout = '2s'", listening().linger_timeout(2 * second)),
        (
            "frame_timeout = '9s'\nhttp.header_read_timeout = '1s'",
            listening().header_read_timeout(second),
        ),
        ("idle_timeout = '1s'", listening().keep_alive_timeout(second)),
        ("frame_timeout = '1s'", listening().header_read_timeout(second)),
        ("max_frame_size = '1KiB'", listening().max_header_size(1024)),
    ];
    for (text, expected) in cases {
        let builder = entry(text).unwrap().http().unwrap();
        assert_eq!(format!("{builder:?}"), format!("{expected:?}"), "{text}");
    }
}

#[test]
fn what_cannot_be_is_told_by_its_path() {
    let cases = [
        ("http.body_timeout = '0s'", "`http.body_timeout` cannot be"),
        #[cfg(feature = "ws")]
        ("http.websocket_ping_interval = '0s'", "`http.websocket_ping_interval` cannot be"),
        #[cfg(not(feature = "ws"))]
        (
            "http.websocket_ping_interval = '1s'",
            "`http.websocket_ping_interval` takes the feature `ws`",
        ),
        ("http.body_timeout = 5", "`http.body_timeout` cannot be 5"),
        ("http.connect_info = 1", "`http.connect_info` cannot be 1"),
        ("http.header_read_timeout = '0s'", "`http.header_read_timeout` cannot be"),
        ("http.max_header_size = 0", "`http.max_header_size` cannot be 0"),
        ("http.http2.max_frame_size = 5", "`http.http2.max_frame_size` cannot be 5"),
        ("http.http2.streams = 5", "there is no key `http.http2.streams`"),
        (
            "http.max_requests_per_connection = 0",
            "`http.max_requests_per_connection` cannot be 0: accepted is a number from 1, or \
             \"unlimited\" for no bound",
        ),
        (
            "http.max_requests_per_connection = 4294967296",
            "`http.max_requests_per_connection` cannot be 4294967296: accepted is a whole number up \
             to 4294967295, or \"unlimited\"",
        ),
        (
            "http.http2.max_header_list_size = '4GiB'",
            "`http.http2.max_header_list_size` cannot be \"4GiB\": accepted is a number of bytes up to \
             4294967295",
        ),
        (
            "http.http2.keep_alive_interval = '400days'",
            "`http.http2.keep_alive_interval` cannot be 34560000s: accepted is more than zero and at \
             most a year",
        ),
        ("http.http2.keep_alive_timeout = '400days'", "`http.http2.keep_alive_timeout` cannot be"),
        ("max_connection_age = '0s'", "`max_connection_age` cannot be"),
        ("http.shutdown_grace = '0s'", "`http.shutdown_grace` cannot be"),
        ("linger_timeout = '0s'", "`linger_timeout` cannot be"),
        ("linger_timeout = 'never'", "`linger_timeout` cannot be"),
        ("httpp.half_close = true", "there is no key `httpp`"),
        ("[htpp]\nhalf_close = true", "there is no key `htpp`"),
        ("http.parc = 5", "there is no key `http.parc`"),
        ("http = true", "`http` cannot be true"),
    ];
    for (text, expected) in cases {
        let error = entry(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

/// The keys of a table, as the error for another one lists them.
fn keys(table: &str) -> Vec<String> {
    let error = entry(&format!("{table} = {{ x = 1 }}")).unwrap_err();
    let (_, keys) = error.split_once(": accepted are ").unwrap();
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn every_setting_of_http_is_a_key() {
    let sources = [
        ("http", include_str!("../../src/http/builder.rs"), 9),
        ("http.http2", include_str!("../../src/http/http2_settings.rs"), 11),
    ];
    for (table, source, at_least) in sources {
        let keys = keys(table);
        let setters = source.lines().filter_map(|line| {
            Some(line.trim_start().strip_prefix("pub fn ")?.split_once("(mut self, ")?.0)
        });
        // A service is the program's.
        let setters: Vec<_> = setters.filter(|name| !name.starts_with("serve<")).collect();
        assert!(setters.len() >= at_least, "{setters:?}");
        for name in setters {
            assert!(keys.iter().any(|key| key == name), "there is no key `{name}`");
        }
    }
}
