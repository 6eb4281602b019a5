//! Tests of the verdict, and of the bits that several bodies share.

use super::*;
use crate::conn::key::ConnKey;
use crate::conn::listener_conns::ListenerConns;
use crate::conn::server_state::ServerState;
use crate::framed::service::{Lines, lines};
use crate::settings::Settings;

const WAITS: u8 = REQUEST_BODY | REQUEST_BODY_PENDING;
const WAITS_ELSEWHERE: u8 = REQUEST_BODY | READ_ELSEWHERE;

/// The progress of a connection that has ended.
fn progress() -> Arc<ConnProgress> {
    let server = Arc::new(ServerState::new(Settings::least(), 1, None));
    let conns: ListenerConns<Lines> = ListenerConns::new(server, lines().into());
    let notifier = Arc::new(conns).notifier(ConnKey { index: 0, generation: 0 });
    Arc::new(ConnProgress::new(notifier, None, Arc::default()))
}

#[test]
fn the_first_part_under_way_decides() {
    use Waiting::*;
    const NO_RESPONSE: Waiting = RequestBody { response_begun: false };
    const RESPONSE: Waiting = RequestBody { response_begun: true };
    const CALL: u8 = SERVICE | SERVICE_PENDING;
    const STREAM: u8 = RESPONSE_BODY | RESPONSE_BODY_PENDING;
    // The bits, then the verdict with a free socket, then with a blocked socket.
    let table = [
        // The service was not polled yet.
        (SERVICE, NO_RESPONSE, Flush),
        (SERVICE | REQUEST_BODY, NO_RESPONSE, Flush),
        (SERVICE | WAITS, NO_RESPONSE, Flush),
        (SERVICE | UNFLUSHED, NO_RESPONSE, Flush),
        // The service was polled. Whether it reads the body decides.
        (CALL, Service, Service),
        (CALL | UNFLUSHED, Service, Service),
        (CALL | REQUEST_BODY_PENDING, Service, Service),
        (CALL | REQUEST_BODY, Service, Service),
        (CALL | WAITS, NO_RESPONSE, NO_RESPONSE),
        (CALL | WAITS | UNFLUSHED, NO_RESPONSE, NO_RESPONSE),
        (CALL | WAITS_ELSEWHERE, NO_RESPONSE, NO_RESPONSE),
        (CALL | READ_ELSEWHERE, Service, Service),
        // The response has begun.
        (RESPONSE_BODY, RESPONSE, Flush),
        (RESPONSE_BODY | REQUEST_BODY, RESPONSE, Flush),
        (RESPONSE_BODY | WAITS, RESPONSE, Flush),
        (STREAM, ResponseBody, Flush),
        (STREAM | UNFLUSHED, ResponseBody, Flush),
        (STREAM | REQUEST_BODY, ResponseBody, Flush),
        (STREAM | REQUEST_BODY_PENDING, ResponseBody, Flush),
        (STREAM | WAITS, RESPONSE, Flush),
        // The response is complete, and the request body is still there.
        (REQUEST_BODY, BodyReader, BodyReader),
        (REQUEST_BODY | UNFLUSHED, BodyReader, BodyReader),
        (WAITS, RESPONSE, RESPONSE),
        (WAITS | UNFLUSHED, RESPONSE, RESPONSE),
        (WAITS_ELSEWHERE, RESPONSE, RESPONSE),
        // No part is left.
        (UNFLUSHED, Flush, Flush),
        (0, Nothing, Flush),
    ];
    for (bits, free, blocked) in table {
        assert_eq!(waiting(bits, false, true), free, "{bits:#010b}");
        assert_eq!(waiting(bits, true, true), blocked, "{bits:#010b}, blocked");
    }
    assert_eq!(waiting(0, false, false), Head);
    assert_eq!(waiting(0, true, false), Flush);
    assert_eq!(waiting(UNFLUSHED, false, false), Flush);
}

/// Over all combinations, also those that no request makes.
#[test]
fn a_connection_rests_only_without_any_part() {
    for bits in 0..=u8::MAX {
        for (is_blocked, has_requests) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            let verdict = waiting(bits, is_blocked, has_requests);
            let rests = !is_under_way(bits) && bits & UNFLUSHED == 0 && !is_blocked;
            let at_rest = if has_requests { Waiting::Nothing } else { Waiting::Head };
            assert_eq!(verdict == at_rest, rests, "{bits:#010b} {verdict:?}");
            // A slot stays taken only while user code that holds a request works.
            let holds_slot = matches!(verdict, Waiting::Service | Waiting::BodyReader);
            let peer_waits = bits & WAITS == WAITS || bits & WAITS_ELSEWHERE == WAITS_ELSEWHERE;
            assert!(!holds_slot || is_under_way(bits) && !peer_waits, "{bits:#010b}");
        }
    }
}

#[tokio::test]
async fn a_body_that_ends_late_leaves_the_next_one_its_bits() {
    let progress = progress();
    let body = || ProgressGuard::new(progress.clone(), BODY, 0);
    let (first, second) = (body(), body());
    progress.set(REQUEST_BODY_PENDING);
    drop(first);
    assert_eq!(progress.bits(), WAITS);
    drop(second);
    assert_eq!(progress.bits(), 0);
    assert!(!progress.is_busy());
}

#[tokio::test]
async fn a_reader_in_another_task_waits_until_it_reads() {
    let progress = progress();
    progress.begin(None);
    let body = ProgressGuard::new(progress.clone(), BODY, 0);
    progress.body_waits(1);
    assert_eq!(progress.bits(), WAITS_ELSEWHERE);
    assert!(progress.take_new_wait() && !progress.take_new_wait());
    // A poll of user code does not end the wait. Another poll of the reader is the same wait.
    progress.clear(REQUEST_BODY_PENDING | RESPONSE_BODY_PENDING);
    progress.body_waits(1);
    assert_eq!((progress.bits(), progress.take_new_wait()), (WAITS_ELSEWHERE, false));
    progress.body_brings(1);
    assert_eq!(progress.bits(), REQUEST_BODY);
    // The reader may be inside of hyper's poll the next time, also if another connection is polled there.
    progress.body_waits(1);
    let poll = progress.enter_poll();
    drop(self::progress().enter_poll());
    progress.body_waits(1);
    drop(poll);
    assert_eq!(progress.bits(), WAITS);
    progress.body_waits(1);
    assert_eq!(progress.bits(), WAITS | READ_ELSEWHERE);
    // What is left of the body does not hold for the next request.
    progress.begin(None);
    let next = ProgressGuard::new(progress.clone(), BODY, 0);
    assert_eq!(progress.bits(), REQUEST_BODY);
    // The reader of the body before has not noticed its end.
    progress.body_waits(1);
    assert_eq!(progress.bits(), REQUEST_BODY);
    progress.body_waits(2);
    progress.body_brings(1);
    drop(body);
    assert_eq!(progress.bits(), WAITS_ELSEWHERE);
    drop(next);
    assert_eq!(progress.bits(), 0);
}

#[tokio::test]
async fn the_last_body_alone_tells_whether_all_is_whole() {
    let progress = progress();
    assert!(progress.is_whole());
    progress.begin(None);
    progress.begin(Some(1));
    assert_eq!((progress.requests(), progress.last_body()), (2, Some(1)));
    // The end of the first body is noticed late.
    progress.note_whole(1);
    assert!(!progress.is_whole());
    progress.note_whole(2);
    progress.note_whole(1);
    assert!(progress.is_whole());
    progress.begin(None);
    assert!(!progress.is_whole());
    // No part of an empty body is to come.
    progress.begin(Some(0));
    assert!(progress.is_whole());
    progress.begin(Some(1));
    assert!(!progress.is_whole());
}

#[tokio::test]
async fn a_response_body_takes_over_the_guard_of_its_service() {
    let progress = progress();
    let service = ProgressGuard::new(progress.clone(), SERVICE | SERVICE_PENDING, 0);
    progress.set(SERVICE_PENDING);
    let response = service.continue_as(RESPONSE_BODY | RESPONSE_BODY_PENDING, UNFLUSHED);
    assert_eq!((progress.bits(), progress.is_busy()), (RESPONSE_BODY, true));
    drop(response);
    assert_eq!((progress.bits(), progress.is_busy()), (UNFLUSHED, false));
}

#[tokio::test]
async fn a_wake_up_within_a_poll_has_the_turn_poll_again() {
    let progress = progress();
    let waker = Waker::from(progress.clone());
    waker.wake_by_ref();
    progress.poll_begins();
    assert!(!progress.poll_ends());
    progress.poll_begins();
    waker.wake_by_ref();
    assert!(progress.poll_ends());
    progress.poll_begins();
    assert!(!progress.poll_ends());
}
