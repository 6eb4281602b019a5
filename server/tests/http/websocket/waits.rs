//! What a WebSocket waits for: the deadlines, and a server that rests meanwhile.

use hyper::client::conn::http2::Builder;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::support::server::unchanged;
use crate::support::within;

in_all_cases!(paused: a_close_behind_output, a_close_behind_output_over_http2);
in_all_cases!(paused: a_ping_within_a_message, a_full_server_pings);
in_all_cases!(paused: messages_over_http2, the_grace_of_an_age_drops_handlers);

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(8);
/// The ticks of a deadline of that length.
const LAG: Duration = Duration::from_secs(2);
const PART: usize = 100_000;

/// Returns a builder with the write deadline alone.
fn with_write_timeout(case: Case) -> ServerBuilder {
    case.narrow_timeless().websocket_ping_interval(None).write_timeout(LIMIT)
}

/// Lets the server rest, while the kernel may have work left.
async fn rests(server: &Server) {
    unchanged(|| (server.status().turns, server.status().bytes_out)).await;
}

/// Sends messages of `PART` bytes until one waits for the peer. Returns their number.
async fn fill(server: &Server, connection: &Connection<Message>) -> usize {
    for count in 1..100 {
        connection.try_send(Message::binary(vec![7; PART])).unwrap();
        rests(server).await;
        if server.status().send_buffered > 0 {
            return count;
        }
    }
    panic!("the peer takes all");
}

/// The only open WebSocket.
async fn opened(probe: &Probe) -> Connection<Message> {
    eventually(|| probe.open.lock().unwrap().len() == 1).await;
    probe.open.lock().unwrap()[0].clone()
}

fn close_of_server(connection: &Connection<Message>, by_message: bool) {
    match by_message {
        true => {
            let frame = CloseFrame { code: 4000, reason: "enough".into() };
            connection.try_send(Message::Close(Some(frame))).unwrap();
        }
        false => connection.close(),
    }
}

/// Waits for the end of the only WebSocket by its write deadline, which began at `start`.
async fn meets_the_write_deadline(case: Case, probe: &Probe, start: Instant) {
    while probe.told.lock().unwrap().is_empty() {
        sleep(SECOND / 10).await;
        assert!(start.elapsed() < 4 * LIMIT, "no end");
    }
    // Asked once more, the kernel may take a little, as it does of the bytes of a TLS session.
    let (waited, most) = (start.elapsed(), 2 * (LIMIT + LAG));
    assert!(waited >= LIMIT && waited <= most, "{case:?}: {waited:?}");
    assert_eq!(probe.told(), ["Deadline(Write)"]);
}

/// The peer does not take the close, and the server does not ask for it again and again.
async fn a_close_behind_output(case: Case) {
    for (by_message, reads) in [(true, false), (false, false), (true, true), (false, true)] {
        let probe = Probe::default();
        let server = serve(with_write_timeout(case), &probe);
        let mut client = case.narrow(&server).await;
        no_time(Box::pin(client.send(handshake("")))).await;
        assert_eq!(client.reply().await.status, 101);
        let connection = opened(&probe).await;
        let count = fill(&server, &connection).await;
        let (start, turns) = (Instant::now(), server.status().turns);
        close_of_server(&connection, by_message);
        rests(&server).await;
        for _ in 0..100 {
            connection.close();
            settle().await;
        }
        let turns = server.status().turns - turns;
        assert!(turns < 10, "{case:?}: {turns}");
        if !reads {
            meets_the_write_deadline(case, &probe, start).await;
            nothing_left(&server).await;
            continue;
        }
        for _ in 0..count {
            assert!(client.frame().await == (BINARY, vec![7; PART]));
        }
        assert_eq!(client.close_code().await, if by_message { 4000 } else { 1000 });
        no_time(client.send(frame(CLOSE, close(1000, "")))).await;
        no_time(client.finish()).await;
        assert_eq!(no_time(client.gone()).await, b"");
        nothing_left(&server).await;
        assert_eq!(probe.told(), ["ClosedByServer"]);
    }
}

/// A client of HTTP/2 with a small window for each stream.
async fn narrow_http2(case: Case, server: &Server) -> (SendRequest<Full<Bytes>>, JoinHandle<()>) {
    let tcp = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    let io = TokioIo::new(case.http2_stream(tcp).await);
    let mut builder = Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(64 << 10);
    let (mut client, connection) = no_time(builder.handshake(io)).await.unwrap();
    let connection = tokio::spawn(async { drop(connection.await) });
    // An extended CONNECT needs the settings of the server.
    let request = hyper::Request::get("http://a/hello").body(Full::default()).unwrap();
    assert_eq!(no_time(client.send_request(request)).await.unwrap().status(), 200);
    (client, connection)
}

async fn a_close_behind_output_over_http2(case: Case) {
    for by_message in [true, false] {
        let probe = Probe::default();
        let server = serve(with_write_timeout(case), &probe);
        let (mut client, _connection) = narrow_http2(case, &server).await;
        let _stream = open_stream(&mut client).await;
        let connection = opened(&probe).await;
        fill(&server, &connection).await;
        let start = Instant::now();
        close_of_server(&connection, by_message);
        rests(&server).await;
        meets_the_write_deadline(case, &probe, start).await;
    }
}

/// The ping is answered, the message stays whole, and its deadline goes on.
async fn a_ping_within_a_message(case: Case) {
    let probe = Probe::default();
    let builder = case.timeless().websocket_ping_interval(None).body_timeout(LIMIT);
    let server = serve(builder, &probe);
    let mut client = open(case, &server, &[]).await;
    let part = |first, text: &str| raw(first, true, text.as_bytes());
    for ends in [true, false] {
        no_time(client.send(part(TEXT, "one "))).await;
        for _ in 0..3 {
            sleep(LIMIT - SECOND).await;
            no_time(client.send(frame(PING, "between"))).await;
            assert_eq!(client.frame().await, (PONG, b"between".into()));
            at_rest(&server, 1, 0).await;
        }
        if ends {
            no_time(client.send([part(0, "two "), part(FIN, "three")].concat())).await;
            assert_eq!(client.frame().await, (TEXT, b"one two three".into()));
            at_rest(&server, 1, 0).await;
            // The deadline ends with the message.
            sleep(100 * LIMIT).await;
            client.echoes("and on").await;
        }
    }
    let start = Instant::now();
    assert_eq!(close_in_time(&mut client).await, 1001);
    let waited = start.elapsed();
    assert!(waited >= LIMIT - SECOND && waited <= LIMIT + LAG, "{case:?}: {waited:?}");
    no_time(client.finish()).await;
    nothing_left(&server).await;
    assert_eq!(server.status().closed_for(CloseReason::Deadline(Deadline::Body)), 1);
}

/// Reads the close of the server, while the clock goes on.
async fn close_in_time(client: &mut Client) -> u16 {
    let bytes = within(100 * LIMIT, client.gone()).await.expect("there is a deadline");
    assert_eq!(bytes[0], FIN | CLOSE, "{bytes:?}");
    u16::from_be_bytes(bytes[2..4].try_into().unwrap())
}

/// `send_buffer_total` is full for the sake of another peer. A silent one gets its ping all the same.
async fn a_full_server_pings(case: Case) {
    let interval = Duration::from_secs(20);
    let probe = Probe::default();
    let builder = case.narrow_timeless().websocket_ping_interval(interval);
    let server = serve(builder, &probe);
    let mut deaf = case.narrow(&server).await;
    no_time(Box::pin(deaf.send(handshake("")))).await;
    assert_eq!(deaf.reply().await.status, 101);
    // More than the total, which is 64 MiB.
    let connection = opened(&probe).await;
    connection.try_send(Message::binary(vec![7; 70 << 20])).unwrap();
    rests(&server).await;
    let mut client = open(case, &server, &[]).await;
    eventually(|| probe.open.lock().unwrap().len() == 2).await;
    let connection = probe.open.lock().unwrap()[1].clone();
    assert!(connection.try_send(Message::text("more")).is_err(), "the total is not full");
    pinged_until_silent((&server, 2), &mut client, &probe, interval).await;
    eventually(|| probe.told() == ["Deadline(Idle)"]).await;
}

/// A stream has the deadlines of a parked WebSocket.
async fn messages_over_http2(case: Case) {
    let probe = Probe::default();
    let builder = case.timeless().websocket_ping_interval(None).body_timeout(LIMIT);
    let server = serve(builder.read_budget_bytes(1024), &probe);
    let mut client = http2(case, &server).await;
    let mut stream = open_stream(&mut client).await;
    let arrives = async || unchanged(|| server.status().bytes_in).await;
    // A part that spends the budget begins the deadline anew, as one that does not, and a ping.
    let message = frame(BINARY, vec![7; 30_000]);
    for part in [&message[..100], &message[100..9_000], &message[9_000..9_100], &message[9_100..]] {
        no_time(stream.write_all(part)).await.unwrap();
        arrives().await;
        assert_eq!(probe.told(), [""; 0], "{case:?}");
        sleep(LIMIT - SECOND).await;
    }
    assert!(no_time(Box::pin(read_large(&mut stream))).await == vec![7; 30_000]);
    no_time(stream.write_all(&raw(TEXT, true, b"one"))).await.unwrap();
    for _ in 0..3 {
        sleep(LIMIT - SECOND).await;
        no_time(stream.write_all(&frame(PING, "between"))).await.unwrap();
        assert_eq!(no_time(read_frame(&mut stream)).await, (PONG, b"between".into()));
        arrives().await;
    }
    probe.told();
    let start = Instant::now();
    let closed = within(100 * LIMIT, Box::pin(read_frame(&mut stream))).await;
    assert_eq!(closed.expect("there is a deadline").1[..2], 1001u16.to_be_bytes());
    let waited = start.elapsed();
    assert!(waited >= LIMIT - SECOND && waited <= LIMIT + LAG, "{case:?}: {waited:?}");
    no_time(stream.shutdown()).await.unwrap();
    eventually(|| probe.told() == ["Deadline(Body)"]).await;
}

/// Reads a frame of 126 bytes to 65,535.
async fn read_large(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[1], 126);
    let mut payload = vec![0; u16::from_be_bytes([head[2], head[3]]).into()];
    stream.read_exact(&mut payload).await.unwrap();
    payload
}

async fn the_grace_of_an_age_drops_handlers(case: Case) {
    let (age, grace) = (20 * SECOND, 40 * SECOND);
    let probe = Probe::default();
    let builder = case.timeless().max_connection_age(age).max_connection_age_grace(grace);
    let server = serve(builder, &probe);
    let start = Instant::now();
    let mut idle_client = http2(case, &server).await;
    let mut idle = open_stream(&mut idle_client).await;
    let mut client = http2(case, &server).await;
    let mut stream = open_stream(&mut client).await;
    no_time(stream.write_all(&frame(TEXT, "stuck"))).await.unwrap();
    let mut stuck = open(case, &server, &frame(TEXT, "stuck")).await;
    eventually(|| probe.told.lock().unwrap().len() == 2).await;
    probe.told();
    sleep(age + grace / 2).await;
    // The reason of the connection is that of its stream.
    let (opcode, _) = no_time(read_frame(&mut idle)).await;
    assert_eq!(opcode, CLOSE);
    assert_eq!(probe.told(), ["MaxAge"], "{case:?}");
    within(grace, stuck.gone()).await.expect("the grace ends");
    let waited = start.elapsed();
    assert!(waited >= age + grace && waited <= age + grace + LAG, "{case:?}: {waited:?}");
    eventually(|| probe.told.lock().unwrap().len() == 2).await;
    assert_eq!(probe.told(), ["Deadline(MaxAge)"; 2], "{case:?}");
    let reason = CloseReason::Deadline(Deadline::MaxAge);
    eventually(|| server.status().closed_for(reason) == 2).await;
}
