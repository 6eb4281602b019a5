//! The runtimes measured on.

use tokio::runtime::Builder;

/// As many as the machine that the published results come from has cores.
pub const THREADS: usize = 2;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    Multi,
    Current,
}

impl Flavour {
    pub const ALL: [Self; 2] = [Self::Multi, Self::Current];

    /// What `--runtime` calls it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Multi => "multi",
            Self::Current => "current",
        }
    }

    pub fn label(self) -> &'static str {
        match self {
            Self::Multi => "multi_thread",
            Self::Current => "current_thread",
        }
    }

    /// Runs `main` to its end on a fresh runtime, as a spawned task: the thread in `block_on` is
    /// not a worker, and a producer there would pay for crossing over with every job.
    pub fn run<T: Send + 'static>(self, main: impl Future<Output = T> + Send + 'static) -> T {
        let mut builder = match self {
            Self::Multi => Builder::new_multi_thread(),
            Self::Current => Builder::new_current_thread(),
        };
        let runtime = builder.worker_threads(THREADS).enable_all().build().expect("tokio starts");
        runtime.block_on(async { tokio::spawn(main).await.expect("the measurement ends") })
    }
}
