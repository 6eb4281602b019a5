//! Hyper's state of the connections that were busy last. Who was longest ago makes room.

use std::any::Any;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use tokio::time::Instant;

use crate::http::Park;
use crate::sync::Mutex;

const NIL: u32 = u32::MAX;

/// A place in the set; void once it was given to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    index: u32,
    generation: u32,
}

pub(crate) type State = Box<dyn Any + Send>;

/// At which of all the rests of connections one has come to its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rested(u32);

impl Rested {
    pub(crate) const NEVER: Self = Self(0);
}

/// At most so many states, listed by age.
pub(crate) struct Warm {
    set: Mutex<Set>,
    park: Park,
    rests: AtomicU32,
}

struct Set {
    places: Vec<Place>,
    /// The first of the free ones, which are listed by `newer`.
    free: u32,
    oldest: u32,
    newest: u32,
    count: usize,
}

struct Place {
    generation: u32,
    older: u32,
    newer: u32,
    since: Option<Instant>,
    state: Option<State>,
}

impl Warm {
    pub(crate) fn new(park: Park) -> Self {
        let (places, count) = (Vec::new(), 0);
        let set = Mutex::new(Set { places, free: NIL, oldest: NIL, newest: NIL, count });
        Self { set, park, rests: AtomicU32::new(0) }
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.set.lock().count
    }

    /// A connection comes to rest.
    pub(crate) fn comes_to_rest(&self) -> Rested {
        if !matches!(self.park, Park::Warm(_)) {
            return Rested::NEVER;
        }
        let rests = self.rests.fetch_add(1, Relaxed).wrapping_add(1);
        Rested(rests.max(1))
    }

    /// Whether a connection may keep its state at its next rest. Those that rest for longer than
    /// it takes all places to be given to others would lose it before they need it, and their
    /// memory is cold by then: it is better left to others at once.
    pub(crate) fn is_recent(&self, last: Rested) -> bool {
        match self.park {
            Park::AtOnce => false,
            Park::After(_) => true,
            Park::Warm(most) => {
                let since = self.rests.load(Relaxed).wrapping_sub(last.0);
                last != Rested::NEVER && (since as usize) < most
            }
        }
    }

    pub(crate) fn put(&self, state: State) -> Token {
        let since = matches!(self.park, Park::After(_)).then(Instant::now);
        let mut set = self.set.lock();
        let is_full = matches!(self.park, Park::Warm(most) if set.count >= most);
        let pushed_out = if is_full { set.remove_oldest() } else { None };
        let token = set.put(state, since);
        drop(set);
        drop(pushed_out);
        token
    }

    pub(crate) fn take(&self, token: Token) -> Option<State> {
        let mut set = self.set.lock();
        let place = set.places.get(token.index as usize)?;
        if place.generation != token.generation || place.state.is_none() {
            return None;
        }
        set.remove(token.index)
    }

    /// Gives up what has been here for longer than it may.
    pub(crate) fn expire(&self) {
        let Park::After(grace) = self.park else { return };
        loop {
            let mut set = self.set.lock();
            let oldest = set.places.get(set.oldest as usize);
            if oldest.and_then(|place| place.since).is_none_or(|since| since.elapsed() < grace) {
                return;
            }
            let state = set.remove_oldest();
            drop(set);
            drop(state);
        }
    }
}

impl Set {
    fn put(&mut self, state: State, since: Option<Instant>) -> Token {
        let index = match self.free {
            NIL => {
                let (older, newer) = (NIL, NIL);
                self.places.push(Place { generation: 0, older, newer, since: None, state: None });
                self.places.len() as u32 - 1
            }
            free => {
                self.free = self.places[free as usize].newer;
                free
            }
        };
        let older = std::mem::replace(&mut self.newest, index);
        match older {
            NIL => self.oldest = index,
            older => self.places[older as usize].newer = index,
        }
        let place = &mut self.places[index as usize];
        (place.older, place.newer) = (older, NIL);
        (place.state, place.since) = (Some(state), since);
        self.count += 1;
        Token { index, generation: place.generation }
    }

    fn remove_oldest(&mut self) -> Option<State> {
        match self.oldest {
            NIL => None,
            oldest => self.remove(oldest),
        }
    }

    fn remove(&mut self, index: u32) -> Option<State> {
        let place = &mut self.places[index as usize];
        let (older, newer) = (place.older, place.newer);
        place.generation = place.generation.wrapping_add(1);
        place.newer = std::mem::replace(&mut self.free, index);
        let state = place.state.take();
        match older {
            NIL => self.oldest = newer,
            older => self.places[older as usize].newer = newer,
        }
        match newer {
            NIL => self.newest = older,
            newer => self.places[newer as usize].older = older,
        }
        self.count -= 1;
        state
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn number(state: Option<State>) -> Option<u32> {
        state.map(|state| *state.downcast().unwrap())
    }

    #[test]
    fn who_was_longest_ago_makes_room() {
        let warm = Warm::new(Park::Warm(3));
        let mut tokens: Vec<_> = (0..3u32).map(|n| warm.put(Box::new(n))).collect();
        assert_eq!(number(warm.take(tokens[0])), Some(0));
        tokens[0] = warm.put(Box::new(0u32));
        tokens.push(warm.put(Box::new(3u32))); // for 1, the oldest now
        assert_eq!(warm.count(), 3);
        let left: Vec<_> = tokens.iter().map(|token| number(warm.take(*token))).collect();
        assert_eq!(left, [Some(0), None, Some(2), Some(3)]);
        assert_eq!(warm.count(), 0);
        assert_eq!(number(warm.take(tokens[3])), None);
        // From the middle, then in order.
        let tokens: Vec<_> = (0..3u32).map(|n| warm.put(Box::new(n))).collect();
        assert_eq!(number(warm.take(tokens[1])), Some(1));
        assert_eq!(number(warm.take(tokens[2])), Some(2));
        assert_eq!(number(warm.take(tokens[0])), Some(0));
    }

    #[test]
    fn old_ones_expire() {
        let mut warm = Warm::new(Park::After(Duration::from_secs(3600)));
        let token = warm.put(Box::new(0u32));
        warm.expire();
        assert_eq!(warm.count(), 1);
        warm.park = Park::After(Duration::ZERO);
        warm.expire();
        assert_eq!((warm.count(), number(warm.take(token))), (0, None));
    }

    #[test]
    fn who_comes_back_before_others_take_all_places_is_recent() {
        let warm = Warm::new(Park::Warm(3));
        assert!(!warm.is_recent(Rested::NEVER));
        let last = warm.comes_to_rest();
        for _ in 0..2 {
            assert!(warm.is_recent(last));
            let _ = warm.comes_to_rest();
        }
        assert!(warm.is_recent(last));
        let _ = warm.comes_to_rest();
        assert!(!warm.is_recent(last));
    }
}
