//! What a file says of HTTP servers.

use std::time::Duration;

use millpond_server::ServerEntry;
use millpond_server::http::Server;

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
        ("http.half_close = true", listening().half_close(true)),
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
        ("http.body_timeout = 5", "`http.body_timeout` cannot be 5"),
        ("http.connect_info = 1", "`http.connect_info` cannot be 1"),
        ("http.header_read_timeout = '0s'", "`http.header_read_timeout` cannot be"),
        ("http.max_header_size = 0", "`http.max_header_size` cannot be 0"),
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
