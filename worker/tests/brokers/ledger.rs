//! A ledger outside of the processes: each appends lines to a file of its own. A line is one write,
//! so that it survives the process, however the process ends.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file of a process.
pub struct Writer(File);

impl Writer {
    pub fn new(folder: &Path) -> Self {
        let path = folder.join(std::process::id().to_string());
        Self(OpenOptions::new().create(true).append(true).open(path).unwrap())
    }

    /// Notes an event of a message: `s`tarted, `d`one, `c`ancelled.
    pub fn note(&self, event: char, number: u32) {
        (&self.0).write_all(format!("{event} {number}\n").as_bytes()).unwrap();
    }
}

/// The folder of all files.
pub struct Ledger(pub PathBuf);

/// What all processes noted: the process ids by number.
#[derive(Default, Debug)]
pub struct Notes {
    pub started: HashMap<u32, Vec<u32>>,
    pub done: HashMap<u32, Vec<u32>>,
    pub cancelled: HashMap<u32, Vec<u32>>,
}

impl Ledger {
    pub fn new(name: &str) -> Self {
        let name = format!("millpond-ledger-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub fn read(&self) -> Notes {
        let mut notes = Notes::default();
        for file in std::fs::read_dir(&self.0).unwrap() {
            let path = file.unwrap().path();
            let process = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            for line in text.lines() {
                let (event, number) = line.split_once(' ').unwrap();
                let events = match event {
                    "s" => &mut notes.started,
                    "d" => &mut notes.done,
                    _ => &mut notes.cancelled,
                };
                events.entry(number.parse().unwrap()).or_default().push(process);
            }
        }
        notes
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
