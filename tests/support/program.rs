//! Running the examples as the programs they are.
#![allow(dead_code)]

use std::env::consts::EXE_SUFFIX;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A program that is looked at so many times hangs: a minute, in which the machine runs.
const LOOKS: u32 = 12_000;
/// The time between two looks.
const TICK: Duration = Duration::from_millis(5);

/// The program of an example, where cargo puts it: next to the tests' own directory.
pub fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let path = profile.join("examples").join(format!("{name}{EXE_SUFFIX}"));
    assert!(path.exists(), "no {}: `cargo build --examples` makes it", path.display());
    Command::new(path)
}

/// Where a program is, or none with a word about what is skipped.
pub fn program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|directory| names.iter().map(move |name| directory.join(name)))
        .find(|path| path.is_file());
    if found.is_none() {
        // Past the capture of the tests' output.
        let _ = writeln!(std::io::stderr(), "skipped: none of {names:?} is installed");
    }
    found
}

pub fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A program that was run: what it printed and how it ended.
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Ran {
    pub fn of(command: &mut Command) -> Self {
        Self::to_the_end(spawn(command))
    }

    pub fn to_the_end(mut child: Child) -> Self {
        let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
        let mut looks = 0;
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None if looks < LOOKS => looks += 1,
                None => child.kill().unwrap(),
            }
            thread::sleep(TICK);
        };
        let ran = Self { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() };
        assert!(looks < LOOKS, "killed: {}{}", ran.stdout(), ran.stderr());
        ran
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// Runs an ignored test of this program in a process of its own, which finds `value` in the variable.
pub fn in_a_process_of_its_own(test: &str, (variable, value): (&str, &str)) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).env(variable, value);
    let ran = Ran::of(&mut command);
    assert!(ran.status.success(), "{}{}", ran.stdout(), ran.stderr());
    assert!(ran.stdout().contains("1 passed"), "{}{}", ran.stdout(), ran.stderr());
}

/// Reads a program's output while it runs, so that it never waits for a reader.
fn drain(output: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut output) = output {
            output.read_to_end(&mut bytes).unwrap();
        }
        bytes
    })
}

/// A program that serves, until it is told to end. Killed if the test fails before.
pub struct Serving {
    child: Option<Child>,
    stdout: BufReader<std::process::ChildStdout>,
    pub address: String,
}

impl Serving {
    /// Waits for the line that says where it listens.
    pub fn start(command: &mut Command) -> Self {
        Self::of(spawn(command))
    }

    /// As `start`, of a program whose input is of the test's making.
    pub fn of(child: Child) -> Self {
        let (mut serving, line) = Self::with_first_line(child);
        serving.address = line
            .strip_prefix("listening on ")
            .and_then(|rest| rest.split(',').next())
            .unwrap_or_else(|| panic!("unexpected: {line}"))
            .to_owned();
        serving
    }

    /// A program with another first line, which is returned; its address is left empty.
    pub fn with_first_line(mut child: Child) -> (Self, String) {
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut serving = Self { child: Some(child), stdout, address: String::new() };
        let line = serving.line();
        (serving, line)
    }

    /// The next line it prints.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn pid(&self) -> String {
        self.child.as_ref().expect("it was not waited for").id().to_string()
    }

    /// Sends a signal, `TERM` or `INT`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end. Returns the rest of what it printed, and its exit code.
    pub fn end(mut self) -> (String, Option<i32>) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        let ran = Ran::to_the_end(self.child.take().expect("waited for once"));
        (rest, ran.status.code())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
        }
    }
}

/// A browser without a window and with a profile of its own, gone with this value.
pub struct Browser {
    child: Child,
    profile: PathBuf,
}

impl Browser {
    /// None where there is no browser.
    pub fn open(profile: &str, url: &str) -> Option<Self> {
        let browser = program(&["chromium", "chromium-browser", "google-chrome"])?;
        let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join(profile);
        let _ = fs::remove_dir_all(&profile);
        let child = Command::new(browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update", "--disable-dev-shm-usage"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { child, profile })
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Asked, not killed: it has processes of its own to end.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.profile);
    }
}
