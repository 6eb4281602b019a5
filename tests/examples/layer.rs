//! The layer's examples, run as programs and driven through real clients over real sockets.

use std::time::Duration;

use crate::program::*;
use crate::support::*;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Response;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

#[derive(Clone)]
struct Http {
    client: Client<HttpConnector, Empty<Bytes>>,
    address: String,
}

impl Http {
    fn to(serving: &Serving) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { client, address: serving.address.clone() }
    }

    async fn get(&self, path: &str) -> Response<Incoming> {
        let uri = format!("http://{}{path}", self.address).parse().unwrap();
        soon(self.client.get(uri)).await.unwrap()
    }

    async fn text(&self, path: &str) -> (u16, String) {
        let response = self.get(path).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    fn spawn(&self, path: &'static str) -> tokio::task::JoinHandle<(u16, String)> {
        let this = self.clone();
        tokio::spawn(async move { this.text(path).await })
    }

    /// Waits until the pool says so of itself.
    async fn until(&self, status: &str) {
        soon(async {
            while self.text("/status").await.1 != format!("{status}\n") {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

fn axum_layer(slots: &str) -> Serving {
    Serving::start(example("axum_layer").args(["--listen", "127.0.0.1:0", "--size", slots]))
}

#[test]
fn axum_sheds_when_full_and_answers_when_a_handler_panics() {
    multi(2, async {
        let serving = axum_layer("1");
        let http = Http::to(&serving);
        assert_eq!(http.text("/now/1").await, (200, "worked for 1 ms\n".into()));
        // A panic costs its own request: the connection is used again.
        assert_eq!(http.text("/panic").await, (500, "something broke\n".into()));
        assert_eq!(http.text("/now/1").await.0, 200);

        let slow = http.spawn("/order/600");
        http.until("1 running, 0 waiting, 0 held").await;
        let full = http.get("/now/1").await;
        assert_eq!(full.headers()["retry-after"], "1");
        assert_eq!(http.text("/admin").await, (200, "at your service\n".into()));
        assert_eq!(http.text("/health").await.0, 200);
        assert_eq!(http.text("/soon/1").await.0, 503, "200 ms are not enough");
        assert_eq!(slow.await.unwrap().0, 200);
        assert_eq!(http.text("/soon/1").await.0, 200);

        // The slot is taken while the body streams.
        let mut stream = http.get("/stream/20").await;
        assert_eq!(stream.status(), 200);
        http.until("0 running, 0 waiting, 1 held").await;
        assert_eq!(http.text("/now/1").await.0, 503);
        assert!(stream.body_mut().frame().await.unwrap().is_ok());
        assert_eq!(http.text("/now/1").await.0, 503);
        let rest = stream.into_body().collect().await.unwrap().to_bytes();
        assert!(rest.ends_with(b"chunk 19\n"));
        http.until("0 running, 0 waiting, 0 held").await;

        serving.signal("INT");
        let (printed, code) = serving.end();
        assert_eq!(code, Some(0));
        assert!(printed.contains(" 1 panicked, 0 cancelled"), "{printed}");
    });
}

#[test]
fn an_axum_client_that_hangs_up_cancels_its_call_but_not_an_order() {
    multi(2, async {
        for (path, cancelled) in [("/now/60000", 1), ("/order/400", 0)] {
            let serving = axum_layer("1");
            let http = Http::to(&serving);
            let call = http.spawn(path);
            http.until("1 running, 0 waiting, 0 held").await;
            call.abort();
            http.until("0 running, 0 waiting, 0 held").await;
            serving.signal("INT");
            let (printed, code) = serving.end();
            assert_eq!(code, Some(0));
            assert!(
                printed.contains(&format!(" {cancelled} cancelled, 0 withdrawn; 0 left")),
                "{printed}"
            );
        }
    });
}

#[test]
fn axum_shows_a_live_line_under_load() {
    let mut command = example("axum_layer");
    let ran = Ran::of(command.args(["--listen", "127.0.0.1:0", "--size", "4", "--load", "2"]));
    let printed = ran.stdout();
    assert!(ran.status.success(), "{printed}{}", ran.stderr());
    let line = printed.lines().find(|line| line.starts_with("running")).expect("a live line");
    for word in ["queued", "waiting", "refused", "served/s", "p50", "p99"] {
        assert!(line.contains(word), "{line}");
    }
}

#[test]
fn a_client_stack_keeps_to_its_bound() {
    let ran = Ran::of(&mut example("client_stack"));
    let printed = ran.stdout();
    assert!(ran.status.success(), "{printed}{}", ran.stderr());
    assert!(printed.starts_with("200 of 200 calls answered\n"), "{printed}");
    let most: usize = printed
        .lines()
        .find_map(|line| line.strip_prefix("at most ")?.split(' ').next()?.parse().ok())
        .expect("how many at once");
    assert!((1..=4).contains(&most), "{printed}");
}

#[test]
fn sigterm_lets_work_end_but_not_for_ever() {
    multi(2, async {
        for (path, deadline, expected, code) in [
            ("/300", "30000", "1 completed, 0 cancelled at the deadline, 0 left", 0),
            ("/later/300", "30000", "1 completed, 0 cancelled at the deadline, 0 left", 0),
            ("/600000", "300", "0 completed, 1 cancelled at the deadline, 0 left", 1),
        ] {
            let serving = Serving::start(example("graceful").args(["127.0.0.1:0", deadline]));
            let http = Http::to(&serving);
            let call = http.spawn(path);
            // The call is there once another one was answered that came after it.
            tokio::time::sleep(Duration::from_millis(100)).await;
            serving.signal("TERM");
            let (printed, ended) = tokio::task::spawn_blocking(|| serving.end()).await.unwrap();
            assert!(printed.contains("stopping, 1 running"), "{path}: {printed}");
            assert!(printed.contains(expected), "{path}: {printed}");
            assert_eq!(ended, Some(code), "{path}: {printed}");
            drop(call);
        }
    });
}
