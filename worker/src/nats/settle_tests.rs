//! Bundles against a server of the test, which speaks as much of the protocol as they need.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::ConnectOptions;
use futures_util::future::join_all;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::{Answer, Settler, Signal, connects};
use crate::receipt::ReceiptError;
use crate::settlement::Settlements;

const LIMIT: Duration = Duration::from_secs(30);

/// Settlements that a server has carried out, by the number of their message.
type Settled = Arc<Mutex<BTreeSet<u64>>>;

/// What the server of a test does.
#[derive(Clone, Copy)]
struct Behavior {
    /// It knows messages up to this number, and ignores settlements of others.
    known: u64,
    /// It ignores settlements of this message, too.
    ignored: u64,
    /// It ends its first connection after so many settlements, and forgets them.
    forgets: usize,
}

async fn serve(behavior: Behavior) -> (async_nats::Client, Settled) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let settled = Settled::default();
    let set = settled.clone();
    tokio::spawn(async move {
        let mut forgets = behavior.forgets;
        while let Ok((stream, _)) = listener.accept().await {
            let _ = connection(stream, Behavior { forgets, ..behavior }, &set).await;
            forgets = 0;
        }
    });
    // Commands go to the connection one by one, so a connection ends in the middle of a bundle.
    let options = ConnectOptions::new()
        .client_capacity(1)
        .reconnect_delay_callback(|_| Duration::from_millis(1));
    (options.connect(address.to_string()).await.unwrap(), settled)
}

async fn connection(stream: TcpStream, does: Behavior, set: &Settled) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream
        .write_all(
            b"INFO {\"server_id\":\"test\",\"version\":\"2.10.0\",\"max_payload\":1048576}\r\n",
        )
        .await?;
    let (mut forgotten, mut subscription) = (0, String::new());
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["PING"] => stream.write_all(b"PONG\r\n").await?,
            ["SUB", _, id] => subscription = id.to_owned(),
            ["PUB", subject, .., _bytes] => {
                let mut payload = String::new();
                stream.read_line(&mut payload).await?;
                if does.forgets > 0 {
                    forgotten += 1;
                    if forgotten == does.forgets {
                        return Ok(());
                    }
                    continue;
                }
                let number: u64 = subject.rsplit('.').next().unwrap().parse().unwrap();
                if number > does.known || number == does.ignored {
                    continue;
                }
                set.lock().unwrap().insert(number);
                if let ["PUB", _, reply, _] = words[..] {
                    let answer = format!("MSG {reply} {subscription} 0\r\n\r\n");
                    stream.write_all(answer.as_bytes()).await?;
                }
            }
            _ => {}
        }
    }
}

fn signal(sequence: u64, connects: u64) -> Signal {
    // Long, so that a bundle takes several writes.
    let reply = format!("ACK.{}.{sequence}", "x".repeat(200)).into();
    Signal { reply, payload: "+ACK".into(), sequence, connects }
}

/// Sends signals as one bundle.
async fn settle(
    settlements: &Settlements<Signal, Answer>,
    signals: Vec<Signal>,
) -> Vec<Result<(), ReceiptError>> {
    let until = Instant::now() + LIMIT;
    let asked =
        signals.into_iter().map(async |signal| settlements.ask(signal, until).await.unwrap());
    timeout(LIMIT, join_all(asked)).await.expect("each settlement has an answer")
}

#[tokio::test]
async fn a_bundle_is_confirmed_by_its_newest() {
    let (client, settled) = serve(Behavior { known: 9, ignored: 0, forgets: 0 }).await;
    let now = connects(&client);
    let settlements = Settler::spawn(client);
    let signals = [4, 9, 2].map(|sequence| signal(sequence, now));
    let answers = settle(&settlements, signals.into()).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(*settled.lock().unwrap(), BTreeSet::from([2, 4, 9]));
}

#[tokio::test]
async fn what_a_lost_connection_took_along_is_sent_again() {
    let (client, settled) = serve(Behavior { known: u64::MAX, ignored: 0, forgets: 10 }).await;
    let now = connects(&client);
    let settlements = Settler::spawn(client);
    let signals = (1..=800).map(|sequence| signal(sequence, now)).collect();
    let answers = settle(&settlements, signals).await;
    let confirmed = (1..).zip(answers).filter_map(|(number, answer)| answer.ok().map(|()| number));
    let settled = settled.lock().unwrap();
    for number in confirmed {
        assert!(settled.contains(&number), "{number} is confirmed, and was lost");
    }
}

#[tokio::test]
async fn a_message_that_the_server_forgot_is_not_confirmed() {
    let (client, settled) = serve(Behavior { known: 3, ignored: 0, forgets: 0 }).await;
    let now = connects(&client);
    let settlements = Settler::spawn(client);
    let answers = settle(&settlements, vec![signal(3, now), signal(5, now)]).await;
    assert!(answers[0].is_ok(), "{answers:?}");
    assert!(matches!(answers[1], Err(ReceiptError::Unconfirmed(_))), "{answers:?}");
    assert_eq!(*settled.lock().unwrap(), BTreeSet::from([3]));
}

#[tokio::test]
async fn a_claim_of_an_earlier_connection_is_confirmed_alone() {
    let (client, _) = serve(Behavior { known: 7, ignored: 6, forgets: 0 }).await;
    let now = connects(&client);
    let settlements = Settler::spawn(client);
    let old = [5, 6].map(|sequence| signal(sequence, now - 1));
    let answers = settle(&settlements, old.into_iter().chain([signal(7, now)]).collect()).await;
    assert!(answers[0].is_ok() && answers[1].is_err() && answers[2].is_ok(), "{answers:?}");
}
