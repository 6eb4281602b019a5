//! Progress on stderr, away from the tables.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressStyle};

pub struct Progress {
    bar: Option<ProgressBar>,
    total: usize,
    started: usize,
}

impl Progress {
    pub fn new(total: usize) -> Self {
        let style = "{pos}/{len} [{bar:30}] {elapsed} {msg}";
        let style = ProgressStyle::with_template(style).expect("the template is valid");
        let bar = || ProgressBar::new(total as u64).with_style(style.progress_chars("=> "));
        Self { bar: stderr().is_terminal().then(bar), total, started: 0 }
    }

    /// Adds steps that the plan did not have.
    pub fn more(&mut self, steps: usize) {
        self.total += steps;
        if let Some(bar) = &self.bar {
            bar.inc_length(steps as u64);
        }
    }

    /// Says what starts now: should it hang, the last line names the culprit.
    pub fn step(&mut self, text: String) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.started as u64);
            bar.set_message(text);
        } else {
            eprintln!("{}/{} {text}", self.started + 1, self.total);
        }
        self.started += 1;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
