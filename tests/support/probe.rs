//! A service that minds tower's contract (its readiness is its own, and used up by a call), and the
//! layers to put around it.
#![allow(dead_code)]

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use millpond::Pool;
use millpond::layer::PoolLayer;
use tower::Service;

use crate::support::{Gate, Gauge, silent_panic};

/// What the next `poll_ready` of any clone answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Ready,
    Pending,
    Fails,
    Panics,
}

/// Its error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault(pub &'static str);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Fault {}

pub struct Probe {
    ready: bool,
    shared: Arc<Shared>,
}

struct Shared {
    mood: Mutex<(Mood, Vec<Waker>)>,
    inside: Gauge,
    gate: Gate,
}

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Waits for the gate and gives the number back.
    Echo(u32),
    Fail,
    /// Panics in `call`.
    PanicAtOnce,
    /// Panics in the future.
    PanicLater,
}

impl Probe {
    /// Its calls end at once.
    pub fn open() -> Self {
        let probe = Self::gated();
        probe.gate().open();
        probe
    }

    /// Its calls wait for the gate.
    pub fn gated() -> Self {
        let mood = Mutex::new((Mood::Ready, Vec::new()));
        let shared = Shared { mood, inside: Gauge::default(), gate: Gate::new() };
        Self { ready: false, shared: Arc::new(shared) }
    }

    pub fn gate(&self) -> Gate {
        self.shared.gate.clone()
    }

    /// Counts the calls that run.
    pub fn inside(&self) -> Gauge {
        self.shared.inside.clone()
    }

    pub fn set_mood(&self, mood: Mood) {
        let mut state = self.shared.mood.lock().unwrap();
        state.0 = mood;
        state.1.drain(..).for_each(Waker::wake);
    }

    /// Sets the mood from afar.
    pub fn twin(&self) -> Self {
        self.clone()
    }
}

impl Clone for Probe {
    fn clone(&self) -> Self {
        Self { ready: false, shared: self.shared.clone() }
    }
}

impl Service<Ask> for Probe {
    type Response = u32;
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<u32, Fault>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let mut state = self.shared.mood.lock().unwrap();
        match state.0 {
            Mood::Ready => {
                self.ready = true;
                Poll::Ready(Ok(()))
            }
            Mood::Pending => {
                state.1.push(cx.waker().clone());
                Poll::Pending
            }
            Mood::Fails => Poll::Ready(Err(Fault("not ready"))),
            Mood::Panics => {
                drop(state);
                silent_panic("in poll_ready")
            }
        }
    }

    fn call(&mut self, ask: Ask) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without having been ready");
        if ask == Ask::PanicAtOnce {
            silent_panic("in call");
        }
        let (inside, wait) = (self.shared.inside.enter(), self.shared.gate.wait());
        Box::pin(async move {
            let _inside = inside;
            wait.await;
            match ask {
                Ask::Echo(n) => Ok(n),
                Ask::Fail => Err(Fault("failed")),
                Ask::PanicLater | Ask::PanicAtOnce => silent_panic("in the future"),
            }
        })
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

/// A layer of each verb, in the order of the documentation.
pub fn every_verb(pool: &Pool) -> Vec<PoolLayer> {
    vec![
        PoolLayer::schedule(pool),
        PoolLayer::schedule_within(pool, HOUR),
        PoolLayer::try_schedule(pool),
        PoolLayer::schedule_always(pool),
        PoolLayer::try_go(pool),
        PoolLayer::anyway_go(pool),
    ]
}
