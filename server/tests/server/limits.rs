//! Every connection is counted, once, and those over a limit are told so.

use std::convert::Infallible;
use std::time::Duration;

use crate::support::chat::Chat;
use crate::support::server::{Case, Client, accounted, echo, emptied, unchanged};
use crate::support::server::{in_all_cases, in_both_modes};
use crate::support::*;
use millpond::Pool;
use millpond_server::{CloseReason, Deadline, Server, ServerBuilder};
use tokio::time::{Instant, sleep};
use tokio_util::codec::LinesCodec;

in_all_cases!(double: opens_and_closes);
in_all_cases!(single: a_limit_of_connections, a_limit_for_each_peer);
in_all_cases!(paused: the_grace_of_an_age_drops_calls);
in_both_modes!(single: those_over_a_limit_are_told);
#[cfg(feature = "tracing")]
in_both_modes!(single: refusals_leave_an_event);

async fn opens_and_closes(case: Case) {
    // A handshake takes a while where nothing is optimized.
    let (batches, batch) = if case.tls { (10, 50) } else { (50, 200) };
    let server = std::sync::Arc::new(case.echo());
    for n in 0..batches {
        let clients: Vec<_> = (0..batch)
            .map(|m| tokio::spawn(one_of_many(case, server.clone(), n * batch + m)))
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        accounted(&server);
    }
    let status = emptied(&server).await;
    let all = (batches * batch) as u64;
    assert_eq!((status.accepted, status.closed), (all, all), "{case:?}: {status:?}");
    let (peer, broken) = (status.closed_for(CloseReason::Peer), status.closed_for(CloseReason::Io));
    assert_eq!(peer + broken, all, "{case:?}: {status:?}");
}

/// Ends in one way or another.
async fn one_of_many(case: Case, server: std::sync::Arc<Server>, n: usize) {
    let mut client = case.connect(&server).await;
    match n % 4 {
        0 => client.ask("a line").await,
        1 => {
            client.send("a line\nand half").await;
            client.finish().await;
            assert_eq!(client.rest().await, b"a line\nand half\n");
        }
        2 => {
            client.ask("a line").await;
            client.reset();
        }
        _ => {}
    }
}

/// Connects, and says whether it was let in. Over TLS the refused get no handshake.
async fn enters(case: Case, server: &Server, ip: &str) -> Option<Client> {
    let mut client = case.connect_from(server, ip).await.ok()?;
    if client.try_send("let me in\n").await.is_err() {
        return None;
    }
    match client.read_some(10).await {
        Ok(10) => Some(client),
        _ => None,
    }
}

async fn a_limit_of_connections(case: Case) {
    let server = echo(case.builder().max_connections(3).max_connections_per_ip(None));
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(enters(case, &server, "127.0.0.1").await.expect("there is room"));
    }
    for refused in 1..=5 {
        assert!(enters(case, &server, "127.0.0.1").await.is_none(), "{case:?}");
        let status = accounted(&server);
        assert_eq!((status.refused_full, status.open), (refused, 3), "{case:?}: {status:?}");
    }
    clients.pop();
    eventually(|| server.status().open == 2).await;
    clients.push(enters(case, &server, "127.0.0.1").await.expect("there is room again"));
    assert!(enters(case, &server, "127.0.0.1").await.is_none(), "{case:?}");
    clients.iter().for_each(|client| assert!(client.tcp().peer_addr().is_ok()));
    drop(clients);
    let status = emptied(&server).await;
    assert_eq!((status.accepted, status.refused_full, status.closed), (10, 6, 4), "{case:?}");
}

async fn a_limit_for_each_peer(case: Case) {
    let server = echo(case.builder().max_connections(5).max_connections_per_ip(2));
    let mut clients = Vec::new();
    for ip in ["127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.2"] {
        clients.push(enters(case, &server, ip).await.expect("there is room"));
    }
    for ip in ["127.0.0.1", "127.0.0.2"] {
        assert!(enters(case, &server, ip).await.is_none(), "{case:?}: {ip}");
    }
    let status = accounted(&server);
    assert_eq!((status.refused_per_ip, status.refused_full), (2, 0), "{case:?}: {status:?}");
    clients.push(enters(case, &server, "127.0.0.3").await.expect("there is room for others"));
    assert!(enters(case, &server, "127.0.0.4").await.is_none(), "{case:?}: full");
    let status = accounted(&server);
    assert_eq!((status.refused_per_ip, status.refused_full), (2, 1), "{case:?}: {status:?}");

    clients.remove(0);
    eventually(|| server.status().open == 4).await;
    assert!(enters(case, &server, "127.0.0.2").await.is_none(), "{case:?}: another's place");
    clients.push(enters(case, &server, "127.0.0.1").await.expect("there is room again"));
    drop(clients);
    emptied(&server).await;
}

async fn those_over_a_limit_are_told(case: Case) {
    // More than is on its way at once: what is not there when a connection is reset is lost.
    let answer = "busy, come again later\n".repeat(20_000);
    let server = echo(case.narrow_builder().max_connections(1).overload_response(answer.clone()));
    let mut inside = case.connect(&server).await;
    inside.ask("let me in").await;
    for _ in 0..20 {
        let mut client = case.connect_narrow(&server).await;
        // The server reads none of these bytes, and the answer arrives all the same.
        let _ = client.try_send("let me in\n".repeat(100)).await;
        assert_eq!(client.rest_text().await, answer, "{case:?}");
    }
    inside.ask("still there").await;
    drop(inside);
    let status = emptied(&server).await;
    assert_eq!((status.refused_full, status.closed), (20, 1), "{case:?}: {status:?}");
    let mut client = case.connect(&server).await;
    client.ask("let me in").await;
}

/// A handler and a service that wait for ever, beside a pool and without one.
async fn the_grace_of_an_age_drops_calls(case: Case) {
    for size in [None, Some(2)] {
        let pool = size.map(Pool::new);
        let builder = || match &pool {
            Some(pool) => aging(case).pool(pool),
            None => aging(case),
        };
        let chat = Chat::new();
        meets_the_grace(case, &chat.serve(builder())).await;
        let reason = CloseReason::Deadline(Deadline::MaxAge);
        assert_eq!((chat.at_work().now(), chat.ends()), (0, vec![(0, reason)]), "{case:?}");
        let waits = |_: String| std::future::pending::<Result<Option<String>, Infallible>>();
        let server = builder().codec(LinesCodec::new()).serve(server::service_fn(waits));
        meets_the_grace(case, &server.unwrap()).await;
    }
}

const AGE: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(40);

fn aging(case: Case) -> ServerBuilder {
    case.no_deadlines().max_connection_age(AGE).max_connection_age_grace(GRACE)
}

async fn meets_the_grace(case: Case, server: &Server) {
    let start = Instant::now();
    let mut client = case.connect(server).await;
    client.send("wait\n").await;
    unchanged(|| server.status().parked).await;
    sleep(AGE + GRACE - Duration::from_secs(1)).await;
    assert_eq!(server.status().open, 1, "{case:?}");
    within(GRACE, client.gone()).await.expect("the grace ends");
    let waited = start.elapsed();
    let most = AGE + GRACE + Duration::from_secs(1);
    assert!(waited >= AGE + GRACE && waited <= most, "{case:?}: {waited:?}");
    let status = emptied(server).await;
    assert_eq!(status.closed_for(CloseReason::Deadline(Deadline::MaxAge)), 1, "{status:?}");
}

/// The fields of the events about refusals, as text.
#[cfg(feature = "tracing")]
#[derive(Clone, Default)]
struct Refusals(std::sync::Arc<std::sync::Mutex<Vec<String>>>);

#[cfg(feature = "tracing")]
impl<S: tracing::Subscriber> tracing_subscriber::layer::Layer<S> for Refusals {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Text(String);

        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{}={value:?} ", field.name());
            }
        }

        let mut text = Text(String::new());
        event.record(&mut text);
        if text.0.contains("limit=") {
            self.0.lock().unwrap().push(text.0);
        }
    }
}

#[cfg(feature = "tracing")]
async fn refusals_leave_an_event(case: Case) {
    use tracing_subscriber::layer::SubscriberExt;

    let refusals = Refusals::default();
    let subscriber = tracing_subscriber::Registry::default().with(refusals.clone());
    keep_events_on();
    let _on = tracing::subscriber::set_default(subscriber);
    let server = echo(case.builder().max_connections(3).max_connections_per_ip(2));
    let _inside = [case.connect(&server).await, case.connect(&server).await];
    for _ in 0..10 {
        assert_eq!(case.connect(&server).await.gone().await, b"");
    }
    let _third = case.connect_from(&server, "127.0.0.2").await.unwrap();
    for _ in 0..10 {
        assert_eq!(case.connect(&server).await.gone().await, b"");
    }
    let texts = refusals.0.lock().unwrap().clone();
    assert_eq!(texts.len(), 2, "{case:?}: {texts:?}");
    for (text, limit, max) in
        [(&texts[0], "max_connections_per_ip", 2), (&texts[1], "max_connections", 3)]
    {
        for part in [format!("limit={limit} "), format!("max={max} "), format!("set `{limit}`")] {
            assert!(text.contains(&part), "{case:?}: {text}");
        }
    }
}
