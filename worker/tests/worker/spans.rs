//! The span of a delivery: its user may complete it, and all code of the message runs inside it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use millpond_worker::memory::Queue;
use tracing::{Instrument, Span};

use crate::{publish, run_until_empty, secs, worker};

#[test]
fn the_code_and_its_jobs_run_in_the_span_that_was_shown() {
    // While one subscriber lives, a thread without one that meets the span first turns it off for all.
    let _other = tracing::Dispatch::new(tracing_subscriber::registry());
    let subscriber = tracing_subscriber::registry();
    let _default = tracing::subscriber::set_default(subscriber);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap().block_on(async {
        let queue = Queue::new(secs(30));
        publish(&queue, 10);
        let (shown, inside) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let (show, look) = (shown.clone(), inside.clone());
        let worker = worker(&queue).on_span(move |span, message| {
            show.lock().unwrap().push((message.value, span.id().expect("a subscriber is there")));
        });
        let report = run_until_empty(&queue, worker, move |message, group| {
            let look = look.clone();
            async move {
                let here = (message.value, Span::current().id().unwrap());
                let job = async move {
                    let there = (message.value, Span::current().id().unwrap());
                    look.lock().unwrap().extend([here, there]);
                    Ok(())
                };
                group.schedule(job).await?;
                Ok(())
            }
        })
        .await;
        assert_eq!(report.acked, 10);
        let shown: HashSet<_> = shown.lock().unwrap().drain(..).collect();
        let inside: Vec<_> = inside.lock().unwrap().drain(..).collect();
        assert_eq!((shown.len(), inside.len()), (10, 20));
        assert!(inside.iter().all(|span| shown.contains(span)), "{inside:?} {shown:?}");
    });
}

#[test]
fn the_spans_of_deliveries_are_children_of_the_callers() {
    let _other = tracing::Dispatch::new(tracing_subscriber::registry());
    let _default = tracing::subscriber::set_default(tracing_subscriber::registry());
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap().block_on(async {
        let queue = Queue::new(secs(30));
        publish(&queue, 3);
        let parents = Arc::new(Mutex::new(Vec::new()));
        let seen = parents.clone();
        // The new span's parent is the span that is current where it is made.
        let worker =
            worker(&queue).on_span(move |_, _| seen.lock().unwrap().push(Span::current().id()));
        let caller = tracing::info_span!("caller");
        let run = run_until_empty(&queue, worker, |_, _| async { Ok(()) });
        let report = run.instrument(caller.clone()).await;
        assert_eq!(report.acked, 3);
        assert_eq!(*parents.lock().unwrap(), vec![caller.id(); 3]);
    });
}
