//! Jobs run in the span they were submitted in, and events carry the pool's name.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::*;
use millpond::{JobOptions, Pool};
use tracing::field::{Field, Visit};
use tracing::{Event, Instrument, Span, info_span};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

/// Keeps the events, each as `level: field=value ...`.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if event.metadata().target() != "millpond" {
            return;
        }
        let mut line = Line(format!("{}:", event.metadata().level()));
        event.record(&mut line);
        for span in context.event_scope(event).into_iter().flatten() {
            line.0 += &format!(" in={}", span.name());
        }
        self.0.lock().unwrap().push(line.0);
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0 += &format!(" {}={value:?}", field.name());
    }
}

impl Log {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// Exactly one event since the last look, of this pool, with these words.
    #[track_caller]
    fn expect(&self, words: &[&str]) {
        let lines = self.take();
        assert_eq!(lines.len(), 1, "wanted one event with {words:?}: {lines:?}");
        for word in words.iter().chain(&["pool=\"mill\""]) {
            assert!(lines[0].contains(word), "no {word} in {:?}", lines[0]);
        }
    }
}

/// Runs the body with its own subscriber, on one thread.
fn logged<F: Future<Output = ()> + Send>(body: impl FnOnce(Log) -> F + Send + 'static) {
    watched(move || {
        keep_events_on();
        let log = Log::default();
        let subscriber = Registry::default().with(log.clone());
        let _default = tracing::subscriber::set_default(subscriber);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body(log));
    });
}

fn here() -> Option<tracing::Id> {
    Span::current().id()
}

fn mill(size: usize) -> millpond::PoolBuilder {
    Pool::builder().size(size).name("mill")
}

#[test]
fn a_job_runs_in_the_span_of_its_submitter() {
    logged(|_| async {
        let pool = mill(1).build().unwrap();
        let span = info_span!("request");
        let wanted = span.id();
        assert!(wanted.is_some());
        let job = || async {
            let before = here();
            tokio::task::yield_now().await;
            (before, here())
        };
        // The span's guard must not be held over an await, so the verbs that wait are made in it.
        let both = (wanted.clone(), wanted.clone());
        let handle = span.in_scope(|| pool.try_schedule(job())).unwrap();
        assert_eq!(handle.await.unwrap(), both);
        let submit = span.in_scope(|| pool.schedule(job()));
        assert_eq!(submit.await.unwrap().await.unwrap(), both);
        let held = hold(&pool);
        let over = span.in_scope(|| pool.schedule_always(job())).unwrap();
        let committed = span.in_scope(|| pool.anyway_go(job())).unwrap().into_handle();
        let mut waiter = span.in_scope(|| Box::pin(pool.schedule(job())));
        assert!(poll(&mut waiter).is_pending());
        held.release().await;
        assert_eq!(over.await.unwrap(), both);
        assert_eq!(committed.await.unwrap(), both);
        assert_eq!(waiter.await.unwrap().await.unwrap(), both);
        let group = pool.group();
        span.in_scope(|| group.anyway_go(job())).unwrap();
        assert_eq!(group.try_join().await.unwrap(), [both]);
        // Submitted in none, it runs in none, whatever its worker did before.
        assert_eq!(pool.try_schedule(job()).unwrap().await.unwrap(), (None, None));
        assert_eq!(here(), None);
    });
}

#[test]
fn a_blocking_closure_runs_in_the_span_too() {
    watched(|| {
        // The closure runs on another thread, so the subscriber is that of all threads.
        let log = Log::default();
        let dispatch = tracing::Dispatch::new(Registry::default().with(log));
        let on_start = dispatch.clone();
        let _default = tracing::dispatcher::set_default(&dispatch);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .on_thread_start(move || {
                // Lasts as long as the thread.
                std::mem::forget(tracing::dispatcher::set_default(&on_start));
            })
            .build()
            .unwrap();
        runtime.block_on(async {
            let pool = mill(1).build().unwrap();
            let span = info_span!("request");
            let handle = span.in_scope(|| pool.try_schedule(millpond::blocking(here))).unwrap();
            assert_eq!(handle.await.unwrap(), span.id());
        });
    });
}

#[test]
fn a_destructor_runs_in_the_span() {
    logged(|_| async {
        let pool = mill(1).build().unwrap();
        let span = info_span!("request");
        let seen = Arc::new(Mutex::new(Vec::new()));
        for aborts in [false, true] {
            let seen = seen.clone();
            let note = OnDrop(move || seen.lock().unwrap().push(here()));
            let job = async move {
                if aborts {
                    std::future::pending::<()>().await;
                }
                drop(note);
            };
            let handle = span.in_scope(|| pool.try_schedule(job)).unwrap();
            settle().await;
            handle.abort();
            let _ = handle.await;
        }
        assert_eq!(*seen.lock().unwrap(), [span.id(), span.id()]);
    });
}

#[test]
fn spans_can_be_left_out() {
    logged(|_| async {
        let pool = mill(1).propagate_span(false).build().unwrap();
        let handle = info_span!("request").in_scope(|| pool.try_schedule(async { here() }));
        assert_eq!(handle.unwrap().await.unwrap(), None);
    });
}

#[test]
fn refusals() {
    logged(|log| async move {
        let pool = mill(1).overflow_limit(0).build().unwrap();
        let held = hold(&pool);
        log.take();
        for _ in 0..2 {
            assert!(pool.try_schedule(async {}).is_err());
            log.expect(&["refused", "Full"]);
        }
        assert!(pool.schedule_always(async {}).is_err());
        log.expect(&["refused", "Full"]);
        let mut waiter = Box::pin(pool.schedule(async {}));
        assert!(poll(&mut waiter).is_pending());
        pool.close();
        log.take();
        assert!(waiter.await.is_err());
        log.expect(&["refused", "Closed"]);
        assert!(pool.try_go(async {}).await.is_err());
        log.expect(&["refused", "Closed"]);
        held.release().await;

        let pool = mill(1).build().unwrap();
        let own = pool.clone();
        let job = async move { own.reserve().await.is_err() };
        assert!(pool.try_schedule(job).unwrap().await.unwrap());
        log.expect(&["refused", "Deadlock"]);
    });
}

#[test]
fn panics() {
    logged(|log| async move {
        let pool = mill(1).build().unwrap();
        let handle = pool.try_schedule(async { silent_panic("oh dear") }).unwrap();
        drop(handle.await);
        log.expect(&["ERROR", "panicked", "oh dear"]);
        let held = hold(&pool);
        drop(pool.try_go(async { silent_panic("oh dear") }).await);
        log.expect(&["ERROR", "panicked", "oh dear"]);
        held.release().await;
        assert!(log.take().is_empty(), "a job that returns is no event");
    });
}

#[test]
fn resizes_and_the_close() {
    logged(|log| async move {
        let pool = mill(3).build().unwrap();
        pool.resize(5).unwrap();
        log.expect(&["INFO", "resized", "3", "5"]);
        pool.close();
        log.expect(&["INFO", "closed"]);
        pool.close();
        assert!(log.take().is_empty(), "closed once");
        drop(mill(1).build().unwrap());
        log.expect(&["INFO", "closed"]);
    });
}

#[test]
fn overflow() {
    logged(|log| async move {
        let pool = mill(1).build().unwrap();
        pool.schedule_always(async {}).unwrap().await.unwrap();
        assert!(log.take().is_empty(), "that was within the size");
        let held = hold(&pool);
        pool.schedule_always(async {}).unwrap().await.unwrap();
        log.expect(&["overflow"]);
        held.release().await;
    });
}

#[test]
fn a_panic_is_told_in_the_span_and_with_the_place_of_its_job() {
    logged(|log| async move {
        let pool = mill(1).build().unwrap();
        let span = info_span!("request", id = 7);
        let job = || async {
            tokio::task::yield_now().await;
            silent_panic("oh dear")
        };
        let expect = |line: u32| {
            let place = format!("submitted_at={}:{line}:", file!());
            log.expect(&["ERROR", "oh dear", "in=request", &place]);
        };
        let (handle, at) = (span.in_scope(|| pool.try_schedule(job())), line!());
        assert!(handle.unwrap().await.is_err());
        expect(at);
        let (submit, at) = (span.in_scope(|| pool.schedule(job())), line!());
        assert!(submit.await.unwrap().await.is_err());
        expect(at);
        let (handle, at) = (span.in_scope(|| pool.anyway_go(job())), line!());
        assert!(handle.unwrap().into_handle().await.is_err());
        expect(at);
        let slot = pool.try_reserve().unwrap();
        let (handle, at) = (span.in_scope(|| slot.schedule(job())), line!());
        assert!(handle.unwrap().await.is_err());
        expect(at);
        let group = pool.group();
        let (submit, at) = (span.in_scope(|| group.schedule(job())), line!());
        submit.await.unwrap();
        assert!(!group.wait().await.is_success());
        expect(at);
        // The job of `try_go` belongs to the span in which the future is polled.
        for full in [false, true] {
            let held = full.then(|| hold(&pool));
            let (submit, at) = (pool.try_go(job()), line!());
            let handle = submit.instrument(span.clone()).await.unwrap();
            assert!(handle.await.is_err());
            expect(at);
            if let Some(held) = held {
                held.release().await;
            }
        }
        // A destructor that panics.
        let bomb = OnDrop(|| silent_panic("oh dear"));
        let job = async move {
            let _bomb = bomb;
            std::future::pending::<()>().await;
        };
        let (handle, at) = (span.in_scope(|| pool.try_schedule(job)), line!());
        let handle = handle.unwrap();
        settle().await;
        handle.abort();
        assert!(handle.await.unwrap_err().is_panic());
        expect(at);
    });
}

fn slow_pool() -> Pool {
    Pool::builder().size(1).name("mill").slow_job(Duration::from_millis(100)).build().unwrap()
}

#[test]
fn a_slow_job_leaves_one_event_while_it_runs() {
    logged(|log| async move {
        tokio::time::pause();
        let pool = slow_pool();
        let quick = pool.schedule(tokio::time::sleep(Duration::from_millis(90))).await.unwrap();
        quick.await.unwrap();
        assert!(log.take().is_empty());
        let import = JobOptions::new().name("import");
        let slow = async { tokio::time::sleep(Duration::from_millis(300)).await };
        let slow = pool.with(import).schedule(slow).await.unwrap();
        let waits = pool.anyway_go(async {}).unwrap().into_handle();
        tokio::time::sleep(Duration::from_millis(98)).await;
        assert!(log.take().is_empty(), "too early");
        tokio::time::sleep(Duration::from_millis(6)).await;
        let words =
            ["WARN", "job is slow", "spans.rs", "name=\"import\"", "state=Suspended", "age=10"];
        log.expect(&words);
        slow.await.unwrap();
        waits.await.unwrap();
        // In its caller.
        let stuck = pool.try_schedule(std::future::pending::<()>()).unwrap();
        let in_caller = async { tokio::time::sleep(Duration::from_millis(250)).await };
        pool.try_go(in_caller).await.unwrap().await.unwrap();
        let lines = log.take();
        assert!(
            lines.len() == 2 && lines.iter().any(|line| line.contains("InCaller")),
            "{lines:?}"
        );
        stuck.abort();
        pool.wait_idle().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        // The task has ended, and another one is spawned.
        let again = async { tokio::time::sleep(Duration::from_millis(150)).await };
        pool.schedule(again).await.unwrap().await.unwrap();
        log.expect(&["job is slow"]);
    });
}

/// A job that blocks its thread is reported while it does, and not once more when it is suspended.
#[test]
fn a_job_that_blocks_its_thread_is_reported_once() {
    watched(|| {
        let log = Log::default();
        let subscriber = Registry::default().with(log.clone());
        let dispatch = tracing::Dispatch::new(subscriber);
        let here = dispatch.clone();
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let enter = move || std::mem::forget(tracing::dispatcher::set_default(&here));
        let runtime = runtime.worker_threads(3).enable_time().on_thread_start(enter);
        runtime.build().unwrap().block_on(async {
            let pool = slow_pool();
            let (release, wait) = std::sync::mpsc::channel::<()>();
            let (release_later, mut wait_later) = tokio::sync::mpsc::channel::<()>(1);
            let job = pool.schedule(async move {
                let _ = wait.recv();
                wait_later.recv().await;
            });
            let job = job.await.unwrap();
            let reported = log.clone();
            let look = move || {
                while !reported.0.lock().unwrap().iter().any(|line| line.contains("slow")) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            };
            tokio::task::spawn_blocking(look).await.unwrap();
            drop(release);
            tokio::time::sleep(Duration::from_millis(250)).await;
            drop(release_later);
            job.await.unwrap();
            log.expect(&["job is slow", "state=Polled"]);
        });
    });
}
