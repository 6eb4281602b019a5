//! Hyper's state that no connection needs just now, for the next one that does.
//!
//! Between two requests of HTTP/1.1 that state knows nothing of its connection, so what one has
//! given up serves another: buffers that are in the caches still, and nothing to be built.

use std::any::Any;

use crate::sync::Mutex;

/// As many are kept. There are others with the connections in the middle of a request.
const KEPT: usize = 32;

/// Last in, first out.
pub(super) struct Spares(Mutex<Vec<Box<dyn Any + Send>>>);

impl Spares {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    pub(super) fn put<T: Send + 'static>(&self, spare: Box<T>) {
        let mut spares = self.0.lock();
        let oldest = (spares.len() == KEPT).then(|| spares.remove(0));
        spares.push(spare);
        drop(spares);
        // Unlocked: it holds a clone of the service.
        drop(oldest);
    }

    /// One of this kind: those of listeners in other modes have other sockets.
    pub(super) fn take<T: 'static>(&self) -> Option<Box<T>> {
        let mut spares = self.0.lock();
        let index = spares.iter().rposition(|spare| spare.is::<T>())?;
        spares.remove(index).downcast().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_gets_its_own_last_first() {
        let spares = Spares::new();
        spares.put(Box::new(1u32));
        spares.put(Box::new("one"));
        spares.put(Box::new(2u32));
        spares.put(Box::new("two"));
        assert_eq!(spares.take::<u32>().as_deref(), Some(&2));
        assert_eq!(spares.take::<u32>().as_deref(), Some(&1));
        assert_eq!(spares.take::<u32>(), None);
        assert_eq!(spares.take::<&str>().as_deref(), Some(&"two"));
    }

    #[test]
    fn they_are_bounded() {
        let spares = Spares::new();
        (0..2 * KEPT).for_each(|number| spares.put(Box::new(number)));
        let kept: Vec<_> = std::iter::from_fn(|| spares.take::<usize>()).collect();
        assert!(kept.into_iter().map(|spare| *spare).eq((KEPT..2 * KEPT).rev()));
    }
}
