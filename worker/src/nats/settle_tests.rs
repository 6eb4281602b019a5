//! Bundles against a server of the test, which speaks as much of the protocol as they need.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, HeaderMap, jetstream};
use futures_util::future::join_all;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::{Answer, Settler, Signal, connects};
use crate::nats::Message;
use crate::nats::receipt::{Claimed, Link};
use crate::receipt::{Receipt, ReceiptError};
use crate::settlement::Settlements;

const LIMIT: Duration = Duration::from_secs(30);

/// What a server has carried out, in this order: the number of the message, and the settlement.
type Settled = Arc<Mutex<Vec<(u64, String)>>>;

/// What the server of a test does.
#[derive(Clone, Copy)]
struct Behavior {
    /// It knows messages up to this number, and ignores the ends of others.
    known: u64,
    /// It does not answer settlements of this message, and carries out none but give-backs.
    ignored: u64,
    /// It ends its first connection after so many settlements, and forgets them.
    forgets: usize,
}

/// A server that knows all messages, and answers.
const PLAIN: Behavior = Behavior { known: u64::MAX, ignored: 0, forgets: 0 };

struct Server {
    client: Client,
    settled: Settled,
    /// Lets the server take up its second connection.
    resume: Arc<Notify>,
}

impl Server {
    /// Starts a server that takes up its second connection at once.
    async fn start(behavior: Behavior) -> Self {
        let server = Self::start_paused(behavior).await;
        server.resume.notify_one();
        server
    }

    async fn start_paused(behavior: Behavior) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (settled, resume) = (Settled::default(), Arc::new(Notify::new()));
        let (list, resumed) = (settled.clone(), resume.clone());
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = connection(stream, behavior, &list).await;
            resumed.notified().await;
            while let Ok((stream, _)) = listener.accept().await {
                let _ = connection(stream, Behavior { forgets: 0, ..behavior }, &list).await;
            }
        });
        // Commands go to the connection one by one, so a connection ends in the middle of a bundle.
        let options = ConnectOptions::new()
            .client_capacity(1)
            .reconnect_delay_callback(|_| Duration::from_millis(1));
        let client = options.connect(address.to_string()).await.unwrap();
        Self { client, settled, resume }
    }

    /// Returns the settlements of a message.
    fn settled(&self, number: u64) -> Vec<String> {
        let settled = self.settled.lock().unwrap();
        let of_message = settled.iter().filter(|(of, _)| *of == number);
        of_message.map(|(_, payload)| payload.clone()).collect()
    }
}

async fn connection(stream: TcpStream, does: Behavior, settled: &Settled) -> std::io::Result<()> {
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
                let is_end = payload.starts_with("+ACK");
                if is_end && (number > does.known || number == does.ignored) {
                    continue;
                }
                settled.lock().unwrap().push((number, payload.trim_end().to_owned()));
                if number == does.ignored {
                    continue;
                }
                if let ["PUB", _, reply, _] = words[..] {
                    let answer = format!("MSG {reply} {subscription} 0\r\n\r\n");
                    stream.write_all(answer.as_bytes()).await?;
                }
            }
            _ => {}
        }
    }
}

fn ack(sequence: u64, connects: u64) -> Signal {
    // Long, so that a bundle takes several writes.
    let reply = format!("ACK.{}.{sequence}", "x".repeat(200)).into();
    Signal { reply, payload: "+ACK".into(), sequence, connects }
}

fn give_back(sequence: u64, connects: u64) -> Signal {
    Signal { payload: "-NAK".into(), ..ack(sequence, connects) }
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
    let server = Server::start(Behavior { known: 9, ..PLAIN }).await;
    let now = connects(&server.client);
    let settlements = Settler::spawn(server.client.clone());
    let signals = [4, 9, 2].map(|sequence| ack(sequence, now));
    let answers = settle(&settlements, signals.into()).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!([2, 4, 9].map(|number| server.settled(number).len()), [1, 1, 1]);
}

#[tokio::test]
async fn what_a_lost_connection_took_along_is_sent_again() {
    let server = Server::start(Behavior { forgets: 10, ..PLAIN }).await;
    let now = connects(&server.client);
    let settlements = Settler::spawn(server.client.clone());
    let signals = (1..=800).map(|sequence| ack(sequence, now)).collect();
    let answers = settle(&settlements, signals).await;
    let confirmed = (1..).zip(answers).filter_map(|(number, answer)| answer.ok().map(|()| number));
    for number in confirmed {
        assert!(!server.settled(number).is_empty(), "{number} is confirmed, and was lost");
    }
}

#[tokio::test]
async fn a_message_that_the_server_forgot_is_not_confirmed() {
    let server = Server::start(Behavior { known: 3, ..PLAIN }).await;
    let now = connects(&server.client);
    let settlements = Settler::spawn(server.client.clone());
    let answers = settle(&settlements, vec![ack(3, now), ack(5, now)]).await;
    assert!(answers[0].is_ok(), "{answers:?}");
    assert!(matches!(answers[1], Err(ReceiptError::Unconfirmed(_))), "{answers:?}");
    assert_eq!([3, 5].map(|number| server.settled(number).is_empty()), [false, true]);
}

/// N2: the server answers an extension, and a give-back, of a message that it does not know.
#[tokio::test]
async fn an_ack_is_not_confirmed_by_an_extension() {
    let server = Server::start(Behavior { known: 3, ..PLAIN }).await;
    let now = connects(&server.client);
    let settlements = Settler::spawn(server.client.clone());
    let extension = Signal { payload: "+WPI".into(), ..ack(7, now) };
    let signals = vec![ack(3, now), ack(5, now), extension, give_back(8, now)];
    let answers = settle(&settlements, signals).await;
    assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
    assert!(matches!(answers[1], Err(ReceiptError::Unconfirmed(_))), "{answers:?}");
}

#[tokio::test]
async fn a_claim_of_an_earlier_connection_is_confirmed_alone() {
    let server = Server::start(Behavior { known: 7, ignored: 6, ..PLAIN }).await;
    let now = connects(&server.client);
    let settlements = Settler::spawn(server.client.clone());
    let old = [5, 6].map(|sequence| ack(sequence, now - 1));
    let answers = settle(&settlements, old.into_iter().chain([ack(7, now)]).collect()).await;
    assert!(answers[0].is_ok() && answers[1].is_err() && answers[2].is_ok(), "{answers:?}");
}

/// N4: with a bundle whose newest has no answer, alone, and for a claim of an earlier connection.
#[tokio::test]
async fn a_give_back_is_sent_once() {
    let server = Server::start(Behavior { ignored: 9, ..PLAIN }).await;
    let now = connects(&server.client);
    let settlements = Settler::spawn(server.client.clone());
    let answers = settle(&settlements, vec![give_back(4, now), ack(9, now)]).await;
    assert!(answers.iter().all(Result::is_err), "{answers:?}");
    assert_eq!(server.settled(4), ["-NAK"]);
    for connects in [now, now - 1] {
        server.settled.lock().unwrap().clear();
        let answers = settle(&settlements, vec![give_back(9, connects)]).await;
        assert!(matches!(answers[0], Err(ReceiptError::Unconfirmed(_))), "{answers:?}");
        assert_eq!(server.settled(9), ["-NAK"], "of connection {connects}, now {now}");
    }
}

/// N4: another worker may get the message while it is on its way.
#[tokio::test]
async fn a_give_back_of_an_old_claim_is_not_sent() {
    let server = Server::start(PLAIN).await;
    let client = server.client.clone();
    let now = connects(&client);
    let link = Arc::new(Link {
        context: jetstream::new(client.clone()),
        settlements: Settler::spawn(client.clone()),
        client,
        stream: String::new(),
        consumer: String::new(),
        dead_letters: String::new(),
        ack_wait: LIMIT,
    });
    let old = |sequence: u64| {
        let (subject, headers) = ("orders".to_owned(), HeaderMap::new());
        let message = Message { subject, headers, payload: "7".into(), sequence };
        let reply = format!("ACK.{sequence}").into();
        let claim = Claimed::new(&link, reply, message, (SystemTime::now(), 1), now);
        *claim.begun_at.lock().unwrap() -= LIMIT * 5 / 6;
        claim
    };
    let answer = timeout(LIMIT, old(1).nack(Duration::ZERO)).await.unwrap();
    assert!(matches!(answer, Err(ReceiptError::Unconfirmed(_))), "{answer:?}");
    assert_eq!(server.settled(1), [""; 0]);
    let extended = old(2);
    timeout(LIMIT, extended.extend()).await.unwrap().unwrap();
    timeout(LIMIT, extended.nack(Duration::ZERO)).await.unwrap().unwrap();
    assert_eq!(server.settled(2), ["+WPI", "-NAK"]);
}

/// N4: the client would keep it, and send it when another worker has the message.
#[tokio::test]
async fn a_give_back_does_not_wait_for_a_connection() {
    let server = Server::start_paused(Behavior { forgets: 1, ..PLAIN }).await;
    let now = connects(&server.client);
    let settlements = Settler::spawn(server.client.clone());
    let after = async {
        // The ack ends the connection.
        while server.client.connection_state() == State::Connected {
            sleep(Duration::from_millis(1)).await;
        }
        let answers = settle(&settlements, vec![give_back(2, now)]).await;
        assert!(matches!(answers[0], Err(ReceiptError::Unconfirmed(_))), "{answers:?}");
        server.resume.notify_one();
    };
    let (answers, ()) = tokio::join!(settle(&settlements, vec![ack(1, now)]), after);
    assert!(answers[0].is_ok(), "{answers:?}");
    // Behind what the client has kept.
    let answers = settle(&settlements, vec![ack(3, now + 1)]).await;
    assert!(answers[0].is_ok(), "{answers:?}");
    assert_eq!(server.settled(2), [""; 0]);
}
