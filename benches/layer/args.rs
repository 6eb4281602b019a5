//! The options that the benches of services have in common.

use std::path::PathBuf;

pub struct Args {
    pub quick: bool,
    pub only: Option<String>,
    pub rounds: usize,
    write: Option<PathBuf>,
    usage: &'static str,
}

impl Args {
    /// Reads the options; `rounds` is the default. Returns `None` if the usage alone is wanted, and ends
    /// the program at what it does not know.
    pub fn parse(mut given: Vec<String>, rounds: usize, usage: &'static str) -> Option<Self> {
        given.reverse();
        let mut args = Self { quick: false, only: None, rounds, write: None, usage };
        while let Some(option) = given.pop() {
            let mut value =
                || given.pop().unwrap_or_else(|| fail(usage, &format!("{option} needs a value")));
            match &*option {
                "--quick" => args.quick = true,
                "--only" => args.only = Some(value()),
                "--rounds" => match value().parse() {
                    Ok(rounds @ 1..=100) => args.rounds = rounds,
                    _ => fail(usage, "--rounds takes a number from 1 to 100"),
                },
                "--write" => args.write = Some(millpond_benches::from_root(value())),
                "--help" => return None,
                _ => fail(usage, &format!("there is no option {option}")),
            }
        }
        if args.quick {
            args.rounds = 1;
        }
        Some(args)
    }

    pub fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }

    /// Writes a file of results, if results are to be written.
    pub fn write(&self, name: &str, text: &str) {
        let Some(path) = self.write.as_ref().map(|dir| dir.join(name)) else { return };
        if let Err(error) = std::fs::write(&path, text) {
            self.fail(&format!("{}: {error}", path.display()));
        }
    }

    /// Ends the program, with a word about what is wrong.
    pub fn fail(&self, problem: &str) -> ! {
        fail(self.usage, problem)
    }
}

fn fail(usage: &str, problem: &str) -> ! {
    eprintln!("{problem}\n\n{usage}");
    std::process::exit(2);
}
