//! What a configuration says is what the builder is told, in every format.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::*;
use millpond::Pool;
use millpond_server::{Listen, Mode, Server, ServerBuilder, ServerConfig, ServerEntry, SlowReader};

const ADDRESS: &str = "127.0.0.1:0";

/// A server with a key more, in both formats: single values are written alike in them.
fn with(key: &str, value: &str) -> [Result<ServerConfig, String>; 2] {
    let listen = if key == "listen" { "" } else { "listen = '127.0.0.1:0'\n" };
    let toml = format!("[[servers]]\n{listen}{key} = {value}\n");
    let listen = if key == "listen" { "" } else { r#""listen": "127.0.0.1:0","# };
    let json = format!(r#"{{"servers": [{{{listen} "{key}": {value}}}]}}"#);
    [from_toml(&toml), from_json(&json)]
}

fn from_toml(text: &str) -> Result<ServerConfig, String> {
    toml::from_str(text).map_err(|error| error.message().to_owned())
}

fn from_json(text: &str) -> Result<ServerConfig, String> {
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let (message, _) = message.rsplit_once(" at line ").expect("the place is said");
        message.to_owned()
    })
}

fn listening() -> ServerBuilder {
    Server::builder().listen(ADDRESS)
}

fn same(config: &ServerConfig, expected: &ServerBuilder) {
    let builders = config.builders().unwrap();
    let [(_, builder)] = &builders[..] else { panic!("{builders:?}") };
    assert_eq!(format!("{builder:?}"), format!("{expected:?}"));
}

#[test]
fn each_key_alone_is_what_the_builder_is_told() {
    let s = Duration::from_secs;
    let cases: [(&str, &str, ServerBuilder); 33] = [
        ("name", "\"echo\"", listening()),
        ("mode", "\"dedicated\"", listening().mode(Mode::Dedicated)),
        ("mode", "\"event-driven\"", listening().mode(Mode::EventDriven)),
        ("use_netpoll_mode", "true", listening().mode(Mode::EventDriven)),
        ("use_netpoll_mode", "false", listening().mode(Mode::Dedicated)),
        ("max_connections", "77", listening().max_connections(77)),
        ("max_connections_per_ip", "7", listening().max_connections_per_ip(7)),
        ("max_connections_per_ip", "\"unlimited\"", listening().max_connections_per_ip(None)),
        ("overload_response", "\"busy\\r\\n\"", listening().overload_response("busy\r\n")),
        ("first_byte_timeout", "\"11s\"", listening().first_byte_timeout(s(11))),
        ("first_byte_timeout", "\"never\"", listening().first_byte_timeout(None)),
        ("handshake_timeout", "\"12s\"", listening().handshake_timeout(s(12))),
        ("handshake_timeout", "\"never\"", listening().handshake_timeout(None)),
        ("frame_timeout", "\"5m 30s\"", listening().frame_timeout(s(330))),
        ("frame_timeout", "\"never\"", listening().frame_timeout(None)),
        ("idle_timeout", "\"1h\"", listening().idle_timeout(s(3600))),
        ("idle_timeout", "\"never\"", listening().idle_timeout(None)),
        ("write_timeout", "\"250ms\"", listening().write_timeout(Duration::from_millis(250))),
        ("write_timeout", "\"never\"", listening().write_timeout(None)),
        ("drain_timeout", "\"1m\"", listening().drain_timeout(s(60))),
        ("max_frame_size", "1000", listening().max_frame_size(1000)),
        ("max_frame_size", "\"512B\"", listening().max_frame_size(512)),
        ("read_budget_bytes", "\"8 KiB\"", listening().read_budget_bytes(8192)),
        ("read_budget_frames", "9", listening().read_budget_frames(9)),
        ("warm_connections", "9", listening().warm_connections(9)),
        ("warm_connections", "0", listening().warm_connections(0)),
        ("send_buffer", "\"3MiB\"", listening().send_buffer(3 << 20)),
        ("send_buffer_total", "\"2GiB\"", listening().send_buffer_total(2 << 30)),
        ("slow_reader", "\"close\"", listening().slow_reader(SlowReader::Close)),
        ("slow_reader", "\"wait\"", listening().slow_reader(SlowReader::Wait)),
        ("listen", "\"unix:/run/x\"", Server::builder().listen(Listen::unix("/run/x"))),
        ("listen", "[\"[::1]:5\"]", Server::builder().listen("[::1]:5")),
        ("listen", "[\"a:1\", \"b:2\"]", Server::builder().listen("a:1").listen("b:2")),
    ];
    let plain = format!("{:?}", listening());
    for (key, value, expected) in cases {
        for config in with(key, value) {
            println!("{key} = {value}");
            same(&config.unwrap(), &expected);
        }
        let default = matches!(value, "\"dedicated\"" | "false" | "\"wait\"" | "\"unlimited\"");
        let told = key == "name" || default;
        assert_eq!(format!("{expected:?}") == plain, told, "{key} = {value} tells nothing");
    }
}

#[test]
fn what_is_not_given_has_the_builders_default() {
    for config in with("name", "\"x\"") {
        same(&config.unwrap(), &listening());
    }
    let plain = format!("{:?}", Server::builder());
    assert_eq!(format!("{:?}", ServerEntry::default().builder().unwrap()), plain);
    assert!(ServerConfig::default().servers().is_empty());
    assert!(from_toml("").unwrap().builders().unwrap().is_empty());
}

const FULL_TOML: &str = r#"
[pools.turns]
size = 8
queue = 4
idle_timeout = "1s"
min_idle = 2
overflow_limit = 0

[pools.other]
size = 1
name = "named"

[[servers]]
name = "few"
listen = [
    "127.0.0.1:7000",
    { address = "127.0.0.1:7001", mode = "event-driven", backlog = 5, reuse_port = true },
    { address = "127.0.0.1:7002", use_netpoll_mode = true, nodelay = false, keepalive = "never" },
]
pool = "turns"

[[servers]]
listen = { address = "127.0.0.1:7003", keepalive = "2m", mode = "dedicated" }
mode = "event-driven"
use_netpoll_mode = true
pool = { size = 3, name = "own" }
"#;

const FULL_JSON: &str = r#"{
    "servers": [
        {
            "name": "few",
            "listen": [
                "127.0.0.1:7000",
                {"address": "127.0.0.1:7001", "mode": "event-driven", "backlog": 5, "reuse_port": true},
                {"address": "127.0.0.1:7002", "use_netpoll_mode": true, "nodelay": false,
                    "keepalive": "never"}
            ],
            "pool": "turns"
        },
        {
            "listen": {"address": "127.0.0.1:7003", "keepalive": "2m", "mode": "dedicated"},
            "mode": "event-driven",
            "use_netpoll_mode": true,
            "pool": {"size": 3, "name": "own"}
        }
    ],
    "pools": {
        "turns": {
            "size": 8, "queue": 4, "idle_timeout": "1s", "min_idle": 2, "overflow_limit": 0
        },
        "other": {"size": 1, "name": "named"}
    }
}"#;

fn both(body: impl Fn(ServerConfig)) {
    body(from_toml(FULL_TOML).unwrap());
    body(from_json(FULL_JSON).unwrap());
}

#[test]
fn listeners_have_settings_of_their_own() {
    both(|config| {
        let pool = Pool::builder().size(8).name("turns").build().unwrap();
        let expected = Server::builder()
            .listen("127.0.0.1:7000")
            .listen(
                Listen::from("127.0.0.1:7001").mode(Mode::EventDriven).backlog(5).reuse_port(true),
            )
            .listen(
                Listen::from("127.0.0.1:7002")
                    .mode(Mode::EventDriven)
                    .nodelay(false)
                    .keepalive(None),
            )
            .pool(&pool);
        let builders = config.builders().unwrap();
        let names: Vec<_> = builders.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["few", "servers[1]"]);
        assert_eq!(format!("{:?}", builders[0].1), format!("{expected:?}"));

        let own = Pool::builder().size(3).name("own").build().unwrap();
        let listen = Listen::from("127.0.0.1:7003").mode(Mode::Dedicated);
        let expected = Server::builder()
            .listen(listen.keepalive(Duration::from_secs(120)))
            .mode(Mode::EventDriven)
            .pool(&own);
        assert_eq!(format!("{:?}", builders[1].1), format!("{expected:?}"));
    });
}

#[test]
fn entries_say_where_and_how_they_listen() {
    both(|config| {
        let [few, many] = config.servers() else { panic!() };
        assert_eq!((few.mode(), many.mode()), (Mode::Dedicated, Mode::EventDriven));
        let listens: Vec<_> = few.listens().chain(many.listens()).collect();
        let expected = [
            ("127.0.0.1:7000", Mode::Dedicated),
            ("127.0.0.1:7001", Mode::EventDriven),
            ("127.0.0.1:7002", Mode::EventDriven),
            ("127.0.0.1:7003", Mode::Dedicated),
        ];
        assert_eq!(listens, expected);
    });
}

#[test]
fn pools_have_their_settings_and_are_shared_by_name() {
    single(async {
        for config in [from_toml(FULL_TOML).unwrap(), from_json(FULL_JSON).unwrap()] {
            let pools: BTreeMap<_, _> = config.pools().collect();
            let turns = pools["turns"];
            let status = turns.status();
            assert_eq!((turns.name(), status.size, status.queue), ("turns", 8, 4));
            assert_eq!(pools["other"].name(), "named");

            // The servers', and that of clones, is this one.
            let held = fill(turns);
            let [few, many] = config.servers() else { panic!() };
            assert_eq!(few.pool().unwrap().status().running, 8);
            assert_eq!(config.clone().servers()[0].pool().unwrap().status().running, 8);
            assert_eq!(many.pool().unwrap().status().running, 0);
            assert!(turns.schedule_always(async {}).is_err(), "nothing may go beyond the size");
            release(held).await;

            turns.prewarm(8);
            eventually(|| turns.status().idle > 2).await;
            let start = std::time::Instant::now();
            eventually(|| turns.status().workers == 2).await;
            let took = start.elapsed();
            assert!(took > Duration::from_millis(500), "workers are idle for a second: {took:?}");
        }
    });
}

/// A configuration that holds that of a server as a part of its own.
#[derive(serde::Deserialize)]
struct Flattened {
    greeting: String,
    #[serde(flatten)]
    server: ServerEntry,
}

#[derive(serde::Deserialize)]
struct Around {
    greeting: String,
    #[serde(flatten)]
    servers: ServerConfig,
}

#[test]
fn parts_of_larger_configurations() {
    let text =
        "greeting = 'hi'\nlisten = '127.0.0.1:0'\nidle_timeout = '1s'\nread_budget_frames = 3\n";
    let flat: Flattened = toml::from_str(text).unwrap();
    let expected = listening().idle_timeout(Duration::from_secs(1)).read_budget_frames(3);
    assert_eq!(flat.greeting, "hi");
    assert_eq!(flat.server.name(), "server");
    assert_eq!(format!("{:?}", flat.server.builder().unwrap()), format!("{expected:?}"));

    let around: Around = toml::from_str(&format!("greeting = 'hi'\n{FULL_TOML}")).unwrap();
    assert_eq!((&*around.greeting, around.servers.servers().len()), ("hi", 2));

    let error = toml::from_str::<ServerEntry>("listen = 'a:1'\nframe_timeout = 10").unwrap_err();
    let text = "`frame_timeout` cannot be 10: accepted is a text with units such as \"10s\" or \
                \"5m 30s\", or \"never\"";
    assert_eq!(error.message(), text);
    let error = toml::from_str::<ServerEntry>("listen = 'a:1'\npool = 'p'").unwrap_err();
    let text = "`pool` cannot be \"p\": accepted is a table of settings, or the name of one of \
                `pools` (none are there)";
    assert_eq!(error.message(), text);
}

const LAYERED: &str = "[pools.turns]\nsize = 8\n[[servers]]\nlisten = ['127.0.0.1:0']\npool = 'turns'\n\
                       idle_timeout = '1s'\nmax_frame_size = '1KiB'\nread_budget_frames = 3\n";

#[test]
fn figment_and_config_read_it_too() {
    use config::{Config, File, FileFormat};
    use figment::Figment;
    use figment::providers::{Format, Toml};

    let turns = Pool::builder().size(8).name("turns").build().unwrap();
    let expected = listening()
        .pool(&turns)
        .idle_timeout(Duration::from_secs(1))
        .max_frame_size(1024)
        .read_budget_frames(3);
    let figment = Figment::from(Toml::string(LAYERED));
    same(&figment.extract().unwrap(), &expected);
    let source = File::from_str(LAYERED, FileFormat::Toml);
    let config = Config::builder().add_source(source).build().unwrap();
    same(&config.try_deserialize().unwrap(), &expected);

    let wrong = LAYERED.replace("'1s'", "10");
    let text = "`servers[0].idle_timeout` cannot be 10: accepted is a text with units such as \
                \"10s\" or \"5m 30s\", or \"never\"";
    let error = Figment::from(Toml::string(&wrong)).extract::<ServerConfig>().unwrap_err();
    assert!(error.to_string().contains(text), "{error}");
    let source = File::from_str(&wrong, FileFormat::Toml);
    let config = Config::builder().add_source(source).build().unwrap();
    let error = config.try_deserialize::<ServerConfig>().unwrap_err();
    assert!(error.to_string().contains(text), "{error}");
}

#[test]
fn every_key_is_in_the_documentation() {
    let text = include_str!("../../src/config/mod.rs");
    let unknown = [
        from_toml("x = 1"),
        with("x", "1").into_iter().next().unwrap(),
        from_toml("[[servers]]\nlisten = { x = 1 }"),
        from_toml("[[servers]]\npool = { x = 1 }"),
        from_toml("[[servers]]\nhttp = { x = 1 }"),
        from_toml("[[servers]]\nhttp = { http2 = { x = 1 } }"),
        from_toml("[[servers]]\ntls = { x = 1 }"),
    ];
    let mut seen = 0;
    for error in unknown {
        for key in accepted(error) {
            assert!(text.contains(&format!("/// | `{key}` | ")), "`{key}` is missing");
            seen += 1;
        }
    }
    assert_eq!(seen, 69);
}

/// The keys that there are, as the error for another one lists them.
fn accepted(unknown: Result<ServerConfig, String>) -> Vec<String> {
    let error = unknown.unwrap_err();
    let (_, keys) = error.split_once(": accepted are ").unwrap();
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn every_setting_is_a_key() {
    let server = accepted(from_toml("[[servers]]\nx = 1"));
    let listen = accepted(from_toml("[[servers]]\nlisten = { x = 1 }"));
    let pool = accepted(from_toml("[pools.a]\nx = 1"));
    let sources = [
        (pool, include_str!("../../../src/pool/builder.rs"), 8),
        (server, include_str!("../../src/builder.rs"), 19),
        (listen, include_str!("../../src/accept/listen.rs"), 5),
    ];
    for (keys, source, at_least) in sources {
        let setters = source.lines().filter_map(|line| {
            let (name, _) = line.trim_start().strip_prefix("pub fn ")?.split_once("(mut self, ")?;
            // Not of a file: these are the program's.
            (!["shutdown_token", "on_panic", "runtime"].contains(&name)).then_some(name)
        });
        let setters: Vec<_> = setters.collect();
        assert!(setters.len() >= at_least, "{setters:?}");
        for name in setters {
            assert!(keys.iter().any(|key| key == name), "there is no key `{name}`");
        }
    }
}

#[test]
fn the_example_is_a_configuration() {
    let config = from_toml(include_str!("../../examples/serve/serve.toml")).unwrap();
    assert_eq!(config.builders().unwrap().len(), 2);
}
