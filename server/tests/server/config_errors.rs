//! What is wrong with a configuration is said by the path of the key, with what it was given and
//! what is accepted.

use std::time::Duration;

use millpond_server::ServerConfig;

fn toml_error(text: &str) -> String {
    toml::from_str::<ServerConfig>(text).expect_err(text).message().to_owned()
}

fn json_error(text: &str) -> String {
    serde_json::from_str::<ServerConfig>(text).expect_err(text).to_string()
}

/// In the second of two servers: in TOML, and in JSON.
#[track_caller]
fn refused(key: &str, value: &str, expected: &str) {
    let toml = format!("[[servers]]\nlisten = 'a:1'\n[[servers]]\nlisten = 'b:1'\n{key} = {value}");
    assert_eq!(toml_error(&toml), expected);
    let json = format!(
        r#"{{"servers": [{{"listen": "a:1"}}, {{"listen": "b:1",
            "{key}": {value}}}]}}"#
    );
    let error = json_error(&json);
    assert!(error.starts_with(&format!("{expected} at line 2 column")), "{error}");
}

const DEADLINES: [&str; 5] =
    ["first_byte_timeout", "handshake_timeout", "frame_timeout", "idle_timeout", "write_timeout"];
const SIZES: [&str; 4] =
    ["max_frame_size", "read_budget_bytes", "send_buffer", "send_buffer_total"];

#[test]
fn durations_want_a_unit() {
    let accepted = r#"a text with units such as "10s" or "5m 30s""#;
    for value in ["10", "-1", "1.5", "true", "[]", r#""10""#, r#""soon""#, r#""1 parsec""#] {
        let shown = if value == "[]" { "a list" } else { value };
        for key in DEADLINES {
            let path = format!("servers[1].{key}");
            let expected =
                format!("`{path}` cannot be {shown}: accepted is {accepted}, or \"never\"");
            refused(key, value, &expected);
        }
        let path = "servers[1].drain_timeout";
        let expected = format!("`{path}` cannot be {shown}: accepted is {accepted}");
        refused("drain_timeout", value, &expected);
    }
    let expected =
        format!("`servers[1].drain_timeout` cannot be \"never\": accepted is {accepted}");
    refused("drain_timeout", r#""never""#, &expected);
}

#[test]
fn sizes_want_binary_units() {
    let accepted = r#"a number of bytes, or a text such as "64KiB" or "1MiB""#;
    let values = [r#""64KB""#, r#""64""#, r#""KiB""#, r#""1.5MiB""#, r#""-1B""#, "-5", "2.5"];
    for value in values.into_iter().chain([r#""99999999999999GiB""#]) {
        for key in SIZES {
            let expected = format!("`servers[1].{key}` cannot be {value}: accepted is {accepted}");
            refused(key, value, &expected);
        }
    }
}

#[test]
fn other_values_want_their_form() {
    let cases = [
        ("name", "5", "5: accepted is a text"),
        ("name", r#""""#, "empty: accepted is one character or more"),
        ("mode", r#""netpoll""#, r#""netpoll": accepted is "dedicated" or "event-driven""#),
        ("mode", "true", r#"true: accepted is "dedicated" or "event-driven""#),
        ("use_netpoll_mode", "1", "1: accepted is true or false"),
        ("slow_reader", r#""drop""#, r#""drop": accepted is "wait" or "close""#),
        ("max_connections", r#""10""#, r#""10": accepted is a whole number"#),
        ("max_connections", "-1", "-1: accepted is a whole number"),
        ("read_budget_frames", "1.0", "1.0: accepted is a whole number"),
        (
            "max_connections_per_ip",
            r#""never""#,
            r#""never": accepted is a whole number, or "unlimited""#,
        ),
        ("overload_response", "[]", "a list: accepted is a text"),
        ("pool", "5", "5: accepted is a table of settings, or the name of one of `pools`"),
        ("tls", "true", "true: accepted is a table with `certificate` and `key`"),
    ];
    for (key, value, expected) in cases {
        refused(key, value, &format!("`servers[1].{key}` cannot be {expected}"));
    }
}

#[test]
fn zero_is_refused_as_by_the_builder() {
    let number = "0: accepted is a number from 1";
    refused("max_connections", "0", &format!("`servers[1].max_connections` cannot be {number}"));
    refused(
        "read_budget_frames",
        "0",
        &format!("`servers[1].read_budget_frames` cannot be {number}"),
    );
    let expected = format!(
        "`servers[1].max_connections_per_ip` cannot be {number}, or \"unlimited\" for no bound"
    );
    refused("max_connections_per_ip", "0", &expected);
    for key in SIZES {
        let expected = format!("`servers[1].{key}` cannot be 0: accepted is one byte or more");
        refused(key, "0", &expected);
        refused(key, r#""0KiB""#, &expected);
    }
    let accepted = "more than zero and at most a year, or \"never\" for no deadline";
    for key in DEADLINES {
        let path = format!("servers[1].{key}");
        refused(key, r#""0s""#, &format!("`{path}` cannot be 0ns: accepted is {accepted}"));
        let expected = format!("`{path}` cannot be 34560000s: accepted is {accepted}");
        refused(key, r#""400days""#, &expected);
    }
}

#[test]
fn keys_are_known_and_given_once() {
    let error = toml_error("[[servers]]\nlisten = 'a:1'\nframe_timout = '10s'");
    let (start, keys) = error.split_once(": accepted are ").unwrap();
    assert_eq!(start, "there is no key `servers[0].frame_timout`");
    assert!(keys.starts_with("name, listen, mode, use_netpoll_mode, pool, max_connections, "));
    assert!(keys.ends_with(", slow_reader, tls, http"), "{keys}");

    assert_eq!(toml_error("server = 1"), "there is no key `server`: accepted are servers, pools");
    let cases = [
        (
            "[[servers]]\nlisten = ['a:1', { address = 'b:1', port = 5 }]",
            "there is no key `servers[0].listen[1].port`: accepted are address, mode, \
             use_netpoll_mode, backlog, reuse_port, nodelay, keepalive",
        ),
        (
            "[[servers]]\nlisten = 'a:1'\npool = { slots = 1 }",
            "there is no key `servers[0].pool.slots`: accepted are size, queue, idle_timeout, \
             min_idle, overflow_limit, target_wait, slow_job, propagate_span, name",
        ),
        (
            "[pools.a]\nslots = 1",
            "there is no key `pools.a.slots`: accepted are size, queue, idle_timeout, \
             min_idle, overflow_limit, target_wait, slow_job, propagate_span, name",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(toml_error(text), expected);
    }
    let twice = r#"{"servers": [{"listen": "a:1", "mode": "dedicated", "mode": "dedicated"}]}"#;
    assert!(json_error(twice).starts_with("`servers[0].mode` is given twice at line 1 column"));
    let twice = r#"{"pools": {"a": {"size": 1}, "a": {"size": 1}}}"#;
    assert!(json_error(twice).starts_with("`pools.a` is given twice at line 1 column"));
}

#[test]
fn modes_and_their_alias_agree() {
    for (mode, flag, meant) in
        [("dedicated", true, "event-driven"), ("event-driven", false, "dedicated")]
    {
        let keys = format!("mode = '{mode}'\nuse_netpoll_mode = {flag}");
        let expected = |path: &str| {
            format!(
                "`{path}.mode` and `{path}.use_netpoll_mode` contradict each other: {flag} stands \
                 for \"{meant}\""
            )
        };
        let error = toml_error(&format!("[[servers]]\nlisten = 'a:1'\n{keys}"));
        assert_eq!(error, expected("servers[0]"));
        let error = toml_error(&format!("[[servers]]\n[servers.listen]\naddress = 'a:1'\n{keys}"));
        assert_eq!(error, expected("servers[0].listen"));
        let listen = keys.replace('\n', ", ");
        let text = format!("[[servers]]\nlisten = ['a:1', {{ address = 'a:1', {listen} }}]");
        assert_eq!(toml_error(&text), expected("servers[0].listen[1]"));
    }
}

#[test]
fn what_must_be_there() {
    let expected = "`servers[0].listen` cannot be empty: accepted is one address or more";
    assert_eq!(toml_error("[[servers]]\n"), expected);
    assert_eq!(toml_error("[[servers]]\nlisten = []"), expected);
    let error = toml_error("[[servers]]\nlisten = { backlog = 1 }");
    assert_eq!(error, "`servers[0].listen.address` is missing");
    assert_eq!(toml_error("pools.a.queue = 1"), "`pools.a.size` is missing");
}

#[test]
fn tables_where_tables_are_due() {
    let cases = [
        ("servers = 5", "`servers` cannot be 5: accepted is a list of tables"),
        ("servers = {}", "`servers` cannot be a table: accepted is a list of tables"),
        (
            "servers = ['a:1']",
            "`servers[0]` cannot be \"a:1\": accepted is a table with the settings of a server",
        ),
        ("pools = []", "`pools` cannot be a list: accepted is a table of pools by their names"),
        ("pools.a = 5", "`pools.a` cannot be 5: accepted is a table of settings"),
        (
            "[[servers]]\nlisten = 7000",
            "`servers[0].listen` cannot be 7000: accepted is an address, a table with one, or a \
             list of these",
        ),
        (
            "[[servers]]\nlisten = ['a:1', 7000]",
            "`servers[0].listen[1]` cannot be 7000: accepted is an address, or a table with one",
        ),
        (
            "[[servers]]\nlisten = { address = 'a:1', backlog = 4294967296 }",
            "`servers[0].listen.backlog` cannot be 4294967296: accepted is a whole number up to \
             4294967295",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(toml_error(text), expected);
    }
    let error = json_error("[1]");
    assert!(error.starts_with("this cannot be a list: accepted is a table with `servers`"));
    let null = json_error(r#"{"servers": null}"#);
    assert!(null.starts_with("`servers` cannot be null: accepted is a list of tables at"));
}

#[test]
fn settings_of_a_listener_are_told_by_their_path() {
    let keepalive = "500ms: accepted is from 1 s to a day, or \"never\" for no probes";
    let long = format!("{:?}: {}", Duration::from_secs(90_000), &keepalive[7..]);
    let address = "unix:: accepted is a path after `unix:`";
    let cases = [
        ("{ address = 'a:1', backlog = 0 }", ".backlog", "0: accepted is a number from 1"),
        ("{ address = 'a:1', keepalive = '500ms' }", ".keepalive", keepalive),
        ("{ address = 'a:1', keepalive = '25h' }", ".keepalive", &long),
        ("{ address = 'unix:' }", ".address", address),
        ("'unix:'", "", address),
    ];
    for (listen, key, expected) in cases {
        let error = toml_error(&format!("[[servers]]\nlisten = {listen}"));
        assert_eq!(error, format!("`servers[0].listen{key}` cannot be {expected}"));
        let error = toml_error(&format!("[[servers]]\nlisten = ['a:1', {listen}]"));
        assert_eq!(error, format!("`servers[0].listen[1]{key}` cannot be {expected}"));
    }
}

/// No duration is too long to be refused.
#[test]
fn the_longest_durations_are_refused() {
    let longest = format!("{}s", u64::MAX);
    let keys = DEADLINES.into_iter().chain([
        "drain_timeout",
        "linger_timeout",
        "max_connection_age",
        "max_connection_age_grace",
    ]);
    for key in keys {
        let error = toml_error(&format!("[[servers]]\nlisten = 'a:1'\n{key} = '{longest}'"));
        let start = format!("`servers[0].{key}` cannot be {longest}: accepted is more than zero");
        assert!(error.starts_with(&start), "{error}");
    }
    for key in ["idle_timeout", "target_wait"] {
        let error = toml_error(&format!("[pools.a]\nsize = 1\n{key} = '{longest}'"));
        let start = format!("`pools.a.{key}` cannot be {longest}: accepted is more than zero");
        assert!(error.starts_with(&start), "{error}");
    }
}

#[test]
fn pools_that_cannot_be() {
    let cases = [
        (
            "pools.a.size = 0",
            "`pools.a.size` cannot be 0: accepted is a number from 1 to 4294967295",
        ),
        (
            "[pools.a]\nsize = 1\nmin_idle = 2",
            "`pools.a.min_idle` cannot be 2: accepted is at most `size`",
        ),
        (
            "[pools.a]\nsize = 1\nidle_timeout = '0s'",
            "`pools.a.idle_timeout` cannot be 0ns: accepted is more than zero and at most a year",
        ),
        (
            "[pools.a]\nsize = 1\nidle_timeout = 5",
            "`pools.a.idle_timeout` cannot be 5: accepted is a text with units such as \"10s\" or \
             \"5m 30s\"",
        ),
        (
            "[pools.a]\nsize = 1\ntarget_wait = '0s'",
            "`pools.a.target_wait` cannot be 0ns: accepted is more than zero and at most a year, or \
             \"never\"",
        ),
        (
            "[pools.a]\nsize = 1\nslow_job = '0s'",
            "`pools.a.slow_job` cannot be 0ns: accepted is more than zero, or \"never\"",
        ),
        (
            "[[servers]]\nlisten = 'a:1'\npool = { size = 1, name = '' }",
            "`servers[0].pool.name` cannot be empty: accepted is one character or more",
        ),
        (
            "[[servers]]\nlisten = 'a:1'\npool = 'c'\n[pools]\nb.size = 1\na.size = 1",
            "`servers[0].pool` cannot be \"c\": accepted is a table of settings, or the name of \
             one of `pools` (a, b)",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(toml_error(text), expected);
    }
}

#[test]
fn names_tell_servers_apart() {
    let server = "[[servers]]\nlisten = 'a:1'\nname = 'x'\n";
    let expected = "`servers[1].name` cannot be \"x\": accepted is a name that no other server has";
    assert_eq!(toml_error(&format!("{server}{server}")), expected);
}

#[test]
fn formats_that_know_the_line_say_it() {
    let text = "[[servers]]\nlisten = 'a:1'\nframe_timeout = 10\n";
    let error = toml::from_str::<ServerConfig>(text).unwrap_err();
    assert_eq!(&text[error.span().unwrap()], "10");
    let text = "[[servers]]\nlisten = 'a:1'\nframe_timout = '10s'\n";
    let error = toml::from_str::<ServerConfig>(text).unwrap_err();
    assert_eq!(&text[error.span().unwrap()], "frame_timout");
}

#[test]
#[cfg(not(feature = "rustls"))]
fn tls_takes_a_feature() {
    let error = toml_error("[[servers]]\nlisten = 'a:1'\ntls = { key = 'x' }");
    assert_eq!(error, "`servers[0].tls` takes the feature `rustls`");
}

#[test]
fn misspelt_tables_are_refused() {
    let server = "[[servers]]\nlisten = 'a:1'\n";
    let cases = [
        ("[[server]]\nlisten = 'a:1'".to_owned(), "server"),
        ("[pool.turns]\nsize = 1".to_owned(), "pool"),
        (format!("{server}[servers.tsl]\nkey = 'x'"), "servers[0].tsl"),
        (format!("{server}[servers.htpp]\nhalf_close = true"), "servers[0].htpp"),
        (format!("{server}[[servers.listeners]]\naddress = 'b:1'"), "servers[0].listeners"),
    ];
    for (text, path) in cases {
        let error = toml_error(&text);
        assert!(error.starts_with(&format!("there is no key `{path}`: accepted are ")), "{error}");
    }
}
