//! Workers as processes of their own, which are killed, ended, stopped, or lose their broker.
//!
//! A child is this test program again, with the ignored test `child` and its task in the environment.
//! `MILLPOND_KILLS`, `MILLPOND_TERMS` and `MILLPOND_RESTARTS` make the short tests long.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::ledger::{Ledger, Writer};
use crate::queue::{Queue, Settings};
use crate::support::{Broker, Kind, watchdog};

const ACK_WAIT: Duration = Duration::from_secs(2);
const IN_FLIGHT: usize = 64;

fn number_of(variable: &str, default: u32) -> u32 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A worker in a process of its own. Killed with the value.
struct Process(Child);

impl Process {
    fn start(broker: &Broker, ledger: &Ledger, job: Duration) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["processes::child", "--exact", "--ignored", "--nocapture"])
            .env("MILLPOND_CHILD", format!("{:?}", broker.kind))
            .env("MILLPOND_URL", broker.url())
            .env("MILLPOND_LEDGER", &ledger.0)
            .env("MILLPOND_JOB", job.as_millis().to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0.id() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    async fn ended(&mut self) {
        while self.0.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The body of a child: a worker with five jobs for each message, until SIGTERM.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it is started by the other tests"]
async fn child() {
    let kind = match std::env::var("MILLPOND_CHILD").as_deref() {
        Ok("Redis") => Kind::Redis,
        Ok("Nats") => Kind::Nats,
        _ => return,
    };
    let settings = Settings::new(kind, std::env::var("MILLPOND_URL").unwrap(), ACK_WAIT);
    let ledger = Arc::new(Writer::new(Path::new(&std::env::var("MILLPOND_LEDGER").unwrap())));
    let job = Duration::from_millis(u64::from(number_of("MILLPOND_JOB", 1)));
    let token = CancellationToken::new();
    let stop = token.clone();
    let mut term =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    tokio::spawn(async move {
        term.recv().await;
        stop.cancel();
    });
    let code = move |number, jobs: millpond_worker::Jobs| {
        let ledger = ledger.clone();
        async move {
            ledger.note('s', number);
            let mut cancelled = NoteOnDrop { ledger: ledger.clone(), number, armed: true };
            let left = Arc::new(AtomicU32::new(5));
            for _ in 0..5 {
                let left = left.clone();
                jobs.schedule(async move {
                    sleep(job).await;
                    left.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                })
                .await?;
            }
            jobs.wait().await;
            assert_eq!(left.load(Ordering::SeqCst), 0);
            cancelled.armed = false;
            ledger.note('d', number);
            Ok(())
        }
    };
    // Adds up, or panics.
    let _ = settings.run(code, token).await;
}

/// Notes that the code of a message was dropped before its end.
struct NoteOnDrop {
    ledger: Arc<Writer>,
    number: u32,
    armed: bool,
}

impl Drop for NoteOnDrop {
    fn drop(&mut self) {
        if self.armed {
            self.ledger.note('c', self.number);
        }
    }
}

/// Publishes numbers at a rate until the token is cancelled. Returns how many.
async fn load(mut queue: Queue, per_second: u32, token: CancellationToken) -> u32 {
    let (mut number, mut tick) = (0, tokio::time::interval(Duration::from_millis(10)));
    while !token.is_cancelled() {
        tick.tick().await;
        let end = number + per_second / 100;
        queue.publish_all(number..end).await;
        number = end;
    }
    number
}

/// SIGKILL of one of three processes under load, again and again.
async fn kills(kind: Kind) {
    let Some(broker) = Broker::start(kind) else { return };
    let (kills, rate) = (number_of("MILLPOND_KILLS", 5), number_of("MILLPOND_RATE", 500));
    let ledger = Ledger::new(&format!("kills-{kind:?}"));
    let mut queue = Queue::new(kind, &broker.url()).await;
    let job = Duration::from_millis(5);
    let mut workers: Vec<_> = (0..3).map(|_| Process::start(&broker, &ledger, job)).collect();
    let stop = CancellationToken::new();
    let load = tokio::spawn(load(Queue::new(kind, &broker.url()).await, rate, stop.clone()));
    let mut killed = HashSet::new();
    for kill in 0..kills as usize {
        sleep(Duration::from_millis(700 + 130 * (kill as u64 % 7))).await;
        killed.insert(workers[kill % 3].0.id());
        // The drop kills.
        workers[kill % 3] = Process::start(&broker, &ledger, job);
    }
    sleep(Duration::from_millis(500)).await;
    stop.cancel();
    let published = load.await.unwrap();
    watchdog(Duration::from_secs(60), queue.drained()).await;
    drop(workers);

    let notes = ledger.read();
    let lost = (0..published).filter(|number| !notes.done.contains_key(number)).count();
    assert_eq!(lost, 0, "of {published}");
    let again: Vec<_> = notes.started.iter().filter(|(_, processes)| processes.len() > 1).collect();
    for (number, processes) in &again {
        let kept = processes.iter().filter(|process| !killed.contains(process)).count();
        assert!(kept <= 1, "{number} was delivered again by a process that lived: {processes:?}");
    }
    let duplicates: usize = notes.done.values().map(|processes| processes.len() - 1).sum();
    assert!(again.len() <= kills as usize * IN_FLIGHT, "{} in {kills} kills", again.len());
    eprintln!(
        "{kind:?}: {kills} kills, {published} messages, lost 0, delivered again {}, done twice {duplicates}",
        again.len()
    );
}

/// SIGTERM of one of three processes under load, again and again: nothing is delivered twice.
async fn terms(kind: Kind) {
    let Some(broker) = Broker::start(kind) else { return };
    let (terms, rate) = (number_of("MILLPOND_TERMS", 5), number_of("MILLPOND_RATE", 500));
    let ledger = Ledger::new(&format!("terms-{kind:?}"));
    let mut queue = Queue::new(kind, &broker.url()).await;
    let job = Duration::from_millis(5);
    let mut workers: Vec<_> = (0..3).map(|_| Process::start(&broker, &ledger, job)).collect();
    let stop = CancellationToken::new();
    let load = tokio::spawn(load(Queue::new(kind, &broker.url()).await, rate, stop.clone()));
    for term in 0..terms as usize {
        sleep(Duration::from_millis(600)).await;
        workers[term % 3].signal(Signal::TERM);
        watchdog(Duration::from_secs(20), workers[term % 3].ended()).await;
        workers[term % 3] = Process::start(&broker, &ledger, job);
    }
    stop.cancel();
    let published = load.await.unwrap();
    watchdog(Duration::from_secs(60), queue.drained()).await;
    let notes = ledger.read();
    assert_eq!(notes.done.len(), published as usize);
    let again = notes.started.values().filter(|processes| processes.len() > 1).count();
    assert_eq!(again, 0, "messages were delivered again");
    eprintln!("{kind:?}: {terms} SIGTERMs, {published} messages, delivered again 0");
}

/// SIGSTOP for three ack waits: another takes over, and the first one's jobs are cancelled.
async fn stops(kind: Kind) {
    let Some(broker) = Broker::start(kind) else { return };
    let ledger = Ledger::new(&format!("stops-{kind:?}"));
    let mut queue = Queue::new(kind, &broker.url()).await;
    let first = Process::start(&broker, &ledger, ACK_WAIT * 5);
    queue.publish_all(0..1).await;
    let started = async {
        while ledger.read().started.is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    watchdog(Duration::from_secs(30), started).await;
    first.signal(Signal::STOP);
    let _second = Process::start(&broker, &ledger, ACK_WAIT * 5);
    sleep(ACK_WAIT * 3).await;
    first.signal(Signal::CONT);
    watchdog(Duration::from_secs(60), queue.drained()).await;
    let notes = ledger.read();
    let first = first.0.id();
    assert_eq!(notes.cancelled.get(&0), Some(&vec![first]), "{notes:?}");
    assert_eq!(notes.started[&0].len(), 2, "{notes:?}");
    assert!(notes.done[&0].len() == 1 && notes.done[&0][0] != first, "{notes:?}");
}

/// The broker is killed and starts again, under load.
async fn restarts(kind: Kind) {
    let Some(mut broker) = Broker::start(kind) else { return };
    let restarts = number_of("MILLPOND_RESTARTS", 3);
    let ledger = Ledger::new(&format!("restarts-{kind:?}"));
    let mut queue = Queue::new(kind, &broker.url()).await;
    let worker = Process::start(&broker, &ledger, Duration::from_millis(5));
    let (mut published, mut longest) = (0, Duration::ZERO);
    for _ in 0..restarts {
        queue.publish_all(published..published + 300).await;
        sleep(Duration::from_millis(100)).await;
        broker.kill();
        sleep(Duration::from_millis(300)).await;
        broker.restart();
        let back = Instant::now();
        queue = Queue::new(kind, &broker.url()).await;
        let probe = published + 300;
        queue.publish_all(probe..probe + 1).await;
        published += 301;
        while !ledger.read().done.contains_key(&probe) {
            sleep(Duration::from_millis(20)).await;
            assert!(back.elapsed() < Duration::from_secs(20), "the worker does not come back");
        }
        longest = longest.max(back.elapsed());
    }
    watchdog(Duration::from_secs(60), queue.drained()).await;
    let notes = ledger.read();
    let lost = (0..published).filter(|number| !notes.done.contains_key(number)).count();
    assert_eq!(lost, 0, "of {published}");
    let again = notes.started.values().map(|processes| processes.len() - 1).sum::<usize>();
    eprintln!(
        "{kind:?}: {restarts} restarts, {published} messages, lost 0, again {again}, back {longest:?}"
    );
    drop(worker);
}

macro_rules! on_both {
    ($($test:ident)*) => {$(
        mod $test {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn redis() {
                super::$test(Kind::Redis).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn nats() {
                super::$test(Kind::Nats).await;
            }
        }
    )*};
}

on_both!(kills terms stops restarts);
