//! Hyper's state that no connection needs just now, for the next one that does.
//!
//! Between two requests of HTTP/1.1 that state knows nothing of its connection, so what one has
//! given up serves another: buffers that are in the caches still, and nothing to be built.

use std::any::Any;
use std::mem::replace;

use crate::builder::OWN_POOL;
use crate::sync::Mutex;

/// As many are kept at most: as many requests as a server's own pool has under way at once.
const KEPT: usize = OWN_POOL;
/// After so many ticks those that nobody has needed go.
const TICKS: u32 = 4;

/// Last in, first out.
pub(crate) struct ConnPool(Mutex<Stack>);

#[derive(Default)]
struct Stack {
    conns: Vec<Box<dyn Any + Send>>,
    /// So many of the oldest were not taken in the ticks that are counted.
    unused: usize,
    ticks: u32,
}

impl ConnPool {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Stack::default()))
    }

    // They are dropped unlocked: each holds a clone of the service.

    pub(crate) fn put<T: Send + 'static>(&self, pooled: Box<T>) {
        let mut stack = self.0.lock();
        let oldest = (stack.conns.len() == KEPT).then(|| stack.conns.remove(0));
        if oldest.is_some() {
            stack.unused = stack.unused.saturating_sub(1);
        }
        stack.conns.push(pooled);
        drop(stack);
        drop(oldest);
    }

    /// One of this kind: those of listeners in other modes have other sockets.
    pub(crate) fn take<T: 'static>(&self) -> Option<Box<T>> {
        let mut stack = self.0.lock();
        let index = stack.conns.iter().rposition(|pooled| pooled.is::<T>())?;
        stack.unused = stack.unused.min(index);
        stack.conns.remove(index).downcast().ok()
    }

    /// Gives up those that nobody has needed for a while.
    pub(crate) fn tick(&self) {
        let mut stack = self.0.lock();
        stack.ticks += 1;
        if stack.ticks < TICKS {
            return;
        }
        stack.ticks = 0;
        let kept = stack.conns.len() - stack.unused;
        let unused = replace(&mut stack.unused, kept);
        let unused: Vec<_> = stack.conns.drain(..unused).collect();
        drop(stack);
        drop(unused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_gets_its_own_last_first() {
        let pool = ConnPool::new();
        pool.put(Box::new(1u32));
        pool.put(Box::new("one"));
        pool.put(Box::new(2u32));
        pool.put(Box::new("two"));
        assert_eq!(pool.take::<u32>().as_deref(), Some(&2));
        assert_eq!(pool.take::<u32>().as_deref(), Some(&1));
        assert_eq!(pool.take::<u32>(), None);
        assert_eq!(pool.take::<&str>().as_deref(), Some(&"two"));
    }

    #[test]
    fn those_that_nobody_needs_go() {
        let pool = ConnPool::new();
        let while_passes = || {
            (0..TICKS).for_each(|_| pool.tick());
            pool.0.lock().conns.len()
        };
        (0..4).for_each(|number| pool.put(Box::new(number)));
        assert_eq!(while_passes(), 4); // they had no time yet
        let two = [(); 2].map(|()| pool.take::<i32>().unwrap());
        two.into_iter().for_each(|pooled| pool.put(pooled));
        assert_eq!(while_passes(), 2);
        assert_eq!(while_passes(), 0);
        assert_eq!(while_passes(), 0);
    }

    #[test]
    fn they_are_bounded() {
        let pool = ConnPool::new();
        (0..2 * KEPT).for_each(|number| pool.put(Box::new(number)));
        let kept: Vec<_> = std::iter::from_fn(|| pool.take::<usize>()).collect();
        assert!(kept.into_iter().map(|pooled| *pooled).eq((KEPT..2 * KEPT).rev()));
    }
}
