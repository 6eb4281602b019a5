//! The service: with its pools, and once more without.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use millpond::Pool;
use millpond::layer::{CallError, PoolLayer};
use sha2::{Digest, Sha256};

/// The files that each request hashes.
#[derive(Clone)]
pub struct Files {
    paths: Arc<[PathBuf]>,
    bytes: u64,
}

impl Files {
    /// Finds the sources of this checkout.
    pub fn of_the_checkout() -> io::Result<Self> {
        let mut paths = Vec::new();
        list(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src").canonicalize()?, &mut paths)?;
        paths.sort();
        let sizes: io::Result<Vec<u64>> =
            paths.iter().map(|path| Ok(path.metadata()?.len())).collect();
        Ok(Self { paths: paths.into(), bytes: sizes?.iter().sum() })
    }

    pub fn len(&self) -> usize {
        self.paths.len()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn list(folder: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in folder.read_dir()? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, paths)?;
        } else {
            paths.push(path);
        }
    }
    Ok(())
}

/// Reads a file and returns its line as `sha256sum` prints it.
///
/// A source file takes some 20 µs, its text being in the kernel's cache. Jobs that take longer than
/// 100 µs without a wait belong into `millpond::blocking`.
fn checksum(path: &Path) -> io::Result<String> {
    let hash = Sha256::digest(std::fs::read(path)?);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{hex}  {}\n", path.display()))
}

/// The service with a bound: at most `requests` at once, and all of them together hash at most as
/// many files at once as there are cores.
///
/// The two pools keep a request from waiting for its own slot: a request that submits to the pool
/// it runs on, and waits, is a nested wait.
#[derive(Clone)]
pub struct Bounded {
    files: Files,
    requests: Pool,
    hashes: Pool,
}

impl Bounded {
    pub fn new(files: Files) -> Result<Self, millpond::ConfigError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // A running request submits all its files without waiting for a place.
        let places = 2 * cores * files.len();
        Ok(Self {
            files,
            requests: Pool::builder().size(2 * cores).queue(4 * cores).name("requests").build()?,
            hashes: Pool::builder().size(cores).queue(places).name("hashes").build()?,
        })
    }

    pub fn router(&self) -> Router {
        let layer = PoolLayer::try_schedule(&self.requests).on_error(respond);
        Router::new().route("/checksums", get(checksums).layer(layer)).with_state(self.clone())
    }

    /// What the pool of requests does at this moment.
    pub fn live(&self) -> String {
        let status = self.requests.status();
        format!("{:>2} running {:>2} waiting", status.running, status.queued)
    }

    /// Waits until the pools have nothing to do.
    pub async fn idle(&self) {
        self.requests.wait_idle().await;
        self.hashes.wait_idle().await;
    }

    /// What became of all jobs.
    pub fn account(&self) -> String {
        let (requests, hashes) = (self.requests.status(), self.hashes.status());
        let jobs = requests.submitted + hashes.submitted;
        let accounted = requests.accounted() + hashes.accounted();
        format!(
            "The pools never ran more than {} requests and {} hashes at once; {accounted} of {jobs} \
             jobs are accounted for ({} completed, {} refused, {} cancelled with their clients).",
            requests.size,
            hashes.size,
            requests.completed + hashes.completed,
            requests.refused,
            requests.cancelled + hashes.cancelled + hashes.withdrawn,
        )
    }
}

fn respond(error: CallError<Infallible>, _: Option<Request>) -> Response {
    match error.is_refusal() {
        true => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        false => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Hashes each file as a job of one group.
async fn checksums(State(service): State<Bounded>) -> Result<String, StatusCode> {
    let group = service.hashes.group();
    for index in 0..service.files.len() {
        let paths = service.files.paths.clone();
        let job = async move { checksum(&paths[index]) };
        group.schedule(job).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    }
    let mut lines = String::new();
    for line in group.try_join().await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)? {
        lines.push_str(&line.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?);
    }
    Ok(lines)
}

/// Counts the jobs that were begun and have not ended.
#[derive(Clone, Default)]
pub struct Jobs(Arc<JobCounts>);

#[derive(Default)]
struct JobCounts {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Jobs {
    /// How many there were at most at once.
    pub fn most(&self) -> usize {
        self.0.most.load(Relaxed)
    }

    fn begin(&self) {
        self.0.most.fetch_max(self.0.now.fetch_add(1, Relaxed) + 1, Relaxed);
    }

    fn end(&self) {
        self.0.now.fetch_sub(1, Relaxed);
    }
}

/// The service as it is often written: `tokio::spawn` for each file, and no bound.
pub fn unbounded(files: Files) -> (Router, Jobs) {
    let jobs = Jobs::default();
    let router =
        Router::new().route("/checksums", get(spawn_all)).with_state((files, jobs.clone()));
    (router, jobs)
}

async fn spawn_all(State((files, jobs)): State<(Files, Jobs)>) -> Result<String, StatusCode> {
    let mut tasks = Vec::new();
    for index in 0..files.len() {
        let (paths, jobs) = (files.paths.clone(), jobs.clone());
        jobs.begin();
        tasks.push(tokio::spawn(async move {
            let line = checksum(&paths[index]);
            jobs.end();
            line
        }));
    }
    let mut lines = String::new();
    for task in tasks {
        let line = task.await.ok().and_then(Result::ok);
        lines.push_str(&line.ok_or(StatusCode::INTERNAL_SERVER_ERROR)?);
    }
    Ok(lines)
}
