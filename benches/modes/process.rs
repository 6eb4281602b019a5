//! The other processes: started from this same program, asked over their input and output.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// A process, gone with this value.
pub struct Process {
    name: String,
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
}

/// Numbers with names.
pub struct Answer {
    text: String,
}

impl Process {
    pub fn start(name: &str, args: &[&str]) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{name} does not start: {error}"))?;
        let input = child.stdin.take().expect("it is piped");
        let output = child.stdout.take().expect("it is piped");
        let (lines, answers) = channel();
        // A read of a pipe has no deadline, a channel has. Ends with the process.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { name: name.into(), child, input, answers })
    }

    /// What it says next.
    pub fn answer(&self, patience: Duration) -> Result<Answer, String> {
        let line = self.answers.recv_timeout(patience);
        let line = line.map_err(|error| format!("{} gives no answer: {error}", self.name))?;
        match line.strip_prefix("ok") {
            Some(text) => Ok(Answer { text: text.into() }),
            None => Err(format!("{}: {line}", self.name)),
        }
    }

    /// Beyond `lasting`, the time that the order takes, it may think for a while.
    pub fn ask(&mut self, order: &str, lasting: Duration) -> Result<Answer, String> {
        let sent = writeln!(self.input, "{order}").and_then(|()| self.input.flush());
        sent.map_err(|error| format!("{} takes no orders: {error}", self.name))?;
        self.answer(lasting + Duration::from_secs(20))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Answer {
    pub fn number(&self, name: &str) -> Result<f64, String> {
        let mut pairs = self.text.split_whitespace().filter_map(|pair| pair.split_once('='));
        let found = pairs.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok());
        found.ok_or_else(|| format!("an answer without {name}: {}", self.text))
    }
}
