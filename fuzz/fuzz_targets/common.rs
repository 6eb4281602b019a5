//! Scripts out of arbitrary bytes.

use arbitrary::Arbitrary;
use millpond_server::scripted::{Event, Limits};

#[derive(Debug, Arbitrary)]
pub struct Case {
    pub input: Vec<u8>,
    pub cuts: Vec<(u8, bool, Option<u8>)>,
    read_budget_bytes: u8,
    read_budget_frames: u8,
}

pub const MAX_FRAME: usize = 256;

impl Case {
    pub fn limits(&self) -> Limits {
        Limits {
            max_frame_size: MAX_FRAME,
            read_budget_bytes: self.read_budget_bytes as usize + 1,
            read_budget_frames: self.read_budget_frames as usize + 1,
        }
    }

    /// The input in the pieces that the case says.
    pub fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut rest = &*self.input;
        for (size, pause, take) in &self.cuts {
            let (now, later) = rest.split_at((*size as usize).min(rest.len()));
            events.push(Event::Sends(now.to_vec()));
            if *pause {
                events.push(Event::Pauses);
            }
            if let Some(take) = take {
                events.push(Event::Takes(*take as usize));
            }
            rest = later;
        }
        events.push(Event::Sends(rest.to_vec()));
        events
    }

    /// All of it at once, to a peer that takes everything, in one turn.
    pub fn whole(&self) -> Vec<Event> {
        vec![Event::Takes(usize::MAX), Event::Sends(self.input.clone())]
    }
}

pub const GENEROUS: Limits =
    Limits { max_frame_size: MAX_FRAME, read_budget_bytes: usize::MAX, read_budget_frames: usize::MAX };
