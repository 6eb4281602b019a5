//! The five verbs on a full pool: where a job runs, and what the numbers say meanwhile.
//!
//! ```text
//! cargo run --example verbs
//! ```
//!
//! A pool with one slot is kept full by a job that holds it until told otherwise. Nothing here
//! sleeps: each line is printed when what it says is certain, so the output is always the same.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use millpond::Pool;
use tokio::sync::oneshot;
use tokio::task;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    // In a task, because only a task has an id to compare that of a job with.
    tokio::spawn(walk()).await?
}

async fn walk() -> Result<()> {
    let pool = Pool::new(1);
    let events = Events::default();

    // Whatever verb: while a slot is free, the job gets it.
    let (release, released) = oneshot::channel::<()>();
    let log = events.clone();
    let holder = pool.try_schedule(async move {
        let _ = released.await;
        log.add("the holder ended");
    })?;
    println!("The pool is full: {} of {} slots.\n", pool.status().running, pool.status().size);

    refused(&pool)?;
    overflow(&pool).await?;
    in_caller(&pool).await?;

    // The other two wait in line. With `schedule` the caller does, its job in hand: if it gives
    // up, the job never was. Nothing happens before the first poll, hence the poll by hand.
    let log = events.clone();
    let mut given_up = pool.schedule(async move { log.add("this never shows") });
    assert!(has_to_wait(&mut given_up).await);
    let while_waiting = pool.status().waiting;
    drop(given_up);
    let status = pool.status();
    println!("schedule, dropped   withdrawn: the job never runs");
    println!(
        "    waiting {while_waiting}, then {}; withdrawn {}",
        status.waiting, status.withdrawn
    );

    let log = events.clone();
    let mut patient = pool.schedule(async move {
        log.add("schedule's job ran");
        Place::here()
    });
    assert!(has_to_wait(&mut patient).await);
    println!("schedule            waits: the caller goes on when the job has a slot");
    println!("    {}", numbers(&pool));

    // `anyway_go` puts the job in line, at the call. The caller goes on, and may even leave.
    let log = events.clone();
    drop(pool.anyway_go(async move { log.add("the job of the dropped anyway_go ran") })?);
    let log = events.clone();
    let committed = pool.anyway_go(async move {
        log.add("the last anyway_go's job ran");
        Place::here()
    })?;
    println!("anyway_go, dropped  committed: the job runs all the same");
    println!("anyway_go           committed: await it to know that it has left the line");
    println!("    {}\n", numbers(&pool));

    events.add("the holder was told to end");
    release.send(()).expect("the holder is still there");
    // Awaited once, these say that the job is in; awaited again, what it returned.
    let patient = patient.await?;
    let committed = committed.await;
    let places = [patient.await?, committed.await?];
    holder.await?;

    println!("Then the slot was given up, and the line moved, first come, first served:");
    for (number, event) in (1..).zip(events.take()) {
        println!("    {number}. {event}");
    }
    let in_caller = places.contains(&Place::here());
    println!("    3. or 5. in the caller's task: {}\n", yes_no(in_caller));

    pool.wait_idle().await;
    let status = pool.status();
    println!("Every job is accounted for: {} submitted =", status.submitted);
    println!(
        "    {} completed + {} refused + {} withdrawn",
        status.completed, status.refused, status.withdrawn
    );
    assert_eq!(status.submitted, status.accounted());
    Ok(())
}

/// `try_schedule` neither waits nor runs the job elsewhere: it hands it back.
fn refused(pool: &Pool) -> Result<()> {
    let before = pool.status();
    // `Place::here` is not called: a future that was never polled has not even begun.
    let error = pool.try_schedule(async { Place::here() }).expect_err("the pool is full");
    println!("try_schedule        refused: {error}");
    // It is ours again: to be tried later, elsewhere, or dropped as here.
    drop(error.into_job());
    println!("    refused {} -> {}", before.refused, pool.status().refused);
    Ok(())
}

/// `schedule_always` goes beyond the size rather than wait.
async fn overflow(pool: &Pool) -> Result<()> {
    let observed = pool.clone();
    // A job sees the pool with itself in it.
    let job = pool.schedule_always(async move { (Place::here(), numbers(&observed)) })?;
    let (place, numbers) = job.await?;
    println!("schedule_always     overflow: beyond the size, and counted");
    println!("    {numbers}");
    println!("    in the caller's task: {}", yes_no(place == Place::here()));
    Ok(())
}

/// `try_go` runs the job in its caller, so a caller that submits too much slows down.
async fn in_caller(pool: &Pool) -> Result<()> {
    let observed = pool.clone();
    // When the first `await` is over, a job in its caller is, too.
    let job = pool.try_go(async move { (Place::here(), numbers(&observed)) }).await?;
    let finished = job.is_finished();
    let (place, numbers) = job.await?;
    println!("try_go              in caller: in its task, which slows down with the pool");
    println!("    {numbers}");
    println!("    in the caller's task: {}", yes_no(place == Place::here()));
    println!("    finished when try_go returned: {}", yes_no(finished));
    Ok(())
}

/// The tokio task that a piece of code runs in.
#[derive(Debug, PartialEq)]
struct Place(task::Id);

impl Place {
    fn here() -> Self {
        Self(task::id())
    }
}

/// Polls a future once.
async fn has_to_wait(mut future: impl Future + Unpin) -> bool {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut future).poll(cx).is_pending())).await
}

/// What happened, in order.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<&'static str>>>);

impl Events {
    fn add(&self, event: &'static str) {
        self.0.lock().expect("no thread panics with it").push(event);
    }

    fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.0.lock().expect("no thread panics with it"))
    }
}

fn numbers(pool: &Pool) -> String {
    let status = pool.status();
    format!(
        "running {} of {}, overflow {}, in caller {}, waiting {}",
        status.running, status.size, status.overflow, status.in_caller, status.waiting
    )
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}
