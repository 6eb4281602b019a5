//! The steps of a client.

use std::ops::Range;
use std::sync::Arc;

/// A placeholder for a connection's own token. Transcripts are compared with the placeholder in
/// place.
pub const TOKEN: &str = "@@@@@";

#[derive(Clone, Debug)]
pub enum Step {
    Send(Vec<u8>),
    /// Sends a part of a text. Tokens are put into the whole text before it is cut.
    Part(Arc<[u8]>, Range<usize>),
    /// Waits until the server is at rest: idle connections are parked.
    Settle,
    /// Reads this many replies.
    Replies(usize),
    /// Reads an interim reply.
    Interim,
    /// Reads until this text has come.
    Until(Vec<u8>),
    /// Reads this many bytes, of any protocol.
    Bytes(usize),
    /// Ends the client's side.
    Fin,
    /// Ends the connection with a reset.
    Reset,
    /// Releases one waiter of this connection's gate.
    Pass,
    /// Waits until this many handlers of `/held` run.
    Inside(usize),
    /// Waits until the app has made this many notes.
    Notes(usize),
    /// Reads until the server has closed or sends nothing more.
    Tail,
    /// Sends a request, to see whether the connection is still usable.
    Probe,
}

#[derive(Clone, Debug)]
pub struct Script {
    pub name: String,
    pub steps: Vec<Step>,
    /// Which of the requests are HEAD.
    pub heads: Vec<usize>,
    /// How much the server sends before it closes depends on timing, even of a correct server.
    pub cut_short: bool,
}

pub fn script(name: impl Into<String>) -> Script {
    Script { name: name.into(), steps: Vec::new(), heads: Vec::new(), cut_short: false }
}

macro_rules! steps {
    ($($method:ident: $step:ident),+ $(,)?) => {$(
        #[must_use]
        pub fn $method(self) -> Self {
            self.step(Step::$step)
        }
    )+};
}

impl Script {
    #[must_use]
    pub fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    #[must_use]
    pub fn send(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(Step::Send(bytes.as_ref().to_vec()))
    }

    /// Sends pieces; each waits until the server is at rest after the previous one.
    #[must_use]
    pub fn pieces<B: AsRef<[u8]>>(self, pieces: impl IntoIterator<Item = B>) -> Self {
        let (mut whole, mut ends) = (Vec::new(), Vec::new());
        for piece in pieces {
            whole.extend_from_slice(piece.as_ref());
            ends.push(whole.len());
        }
        let (whole, mut start): (Arc<[u8]>, usize) = (whole.into(), 0);
        ends.into_iter().fold(self, |script, end| {
            let part = std::mem::replace(&mut start, end)..end;
            script.step(Step::Part(whole.clone(), part)).settle()
        })
    }

    #[must_use]
    pub fn replies(self, count: usize) -> Self {
        self.step(Step::Replies(count))
    }

    #[must_use]
    pub fn until(self, text: impl AsRef<[u8]>) -> Self {
        self.step(Step::Until(text.as_ref().to_vec()))
    }

    #[must_use]
    pub fn bytes(self, count: usize) -> Self {
        self.step(Step::Bytes(count))
    }

    #[must_use]
    pub fn inside(self, count: usize) -> Self {
        self.step(Step::Inside(count))
    }

    #[must_use]
    pub fn notes(self, count: usize) -> Self {
        self.step(Step::Notes(count))
    }

    /// The requests with these numbers, from 0, are HEAD.
    #[must_use]
    pub fn heads(mut self, heads: &[usize]) -> Self {
        self.heads = heads.to_vec();
        self
    }

    #[must_use]
    pub fn cut_short(mut self) -> Self {
        self.cut_short = true;
        self
    }

    steps! {
        settle: Settle,
        interim: Interim,
        fin: Fin,
        reset: Reset,
        pass: Pass,
        tail: Tail,
        probe: Probe,
    }
}
