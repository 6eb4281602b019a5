//! The examples of this package, run as the programs they are.
#![allow(missing_docs)]

#[path = "../../../tests/support/program.rs"]
mod program;

use program::*;

fn prints(name: &str, expected: &str) {
    let ran = Ran::of(&mut example(name));
    assert_eq!(ran.stdout(), expected, "{}", ran.stderr());
    assert!(ran.status.success());
}

#[test]
fn tonic_answers_that_it_is_exhausted() {
    let expected = "\
8 calls at once on 3 slots: {\"OK\": 3, \"RESOURCE_EXHAUSTED\": 5}
a handler that panics: Err(Internal)
the connection lives: \"hello, again\"
";
    prints("tonic_layer", expected);
}

#[test]
fn tonic_and_axum_share_a_port() {
    prints("tonic_and_axum", "hello over HTTP\nhello, gRPC\n2 calls on the pool\n");
}

#[test]
fn reqwest_keeps_to_the_bound() {
    prints("reqwest_layer", "10 requests answered, at most 2 at once\n");
}

#[test]
fn jobs_do_not_wait_for_connections() {
    let expected = "\
12 queries answered, their sum is 506
8 refused at once, 8 waited in the queue of the pool
4 connections, 0 waits for one
";
    prints("database_pool", expected);
}

#[test]
fn workers_of_apalis_share_the_bound() {
    let expected = "40 tasks ended, at most 3 at once\n40 jobs completed on the pool\n";
    prints("apalis_worker", expected);
}

#[test]
fn tokio_metrics_sees_each_job() {
    let ran = Ran::of(&mut example("job_metrics"));
    let printed = ran.stdout();
    assert!(ran.status.success(), "{}", ran.stderr());
    assert!(printed.starts_with("8 jobs instrumented, 8 ended\n"), "{printed}");
    assert!(printed.ends_with("delay of the first poll: true\n"), "{printed}");
}
