//! The pool of hyper connections that no connection of the server uses now.
//!
//! Between two plain HTTP/1.1 requests hyper's state holds nothing of its peer (`H3`). So a state that one
//! connection gives up serves the next: nothing is built, and its buffers are still in the CPU's caches.
//! `conn.rs` puts and takes; the server's tick (`mod.rs`) drops states that were unused for a while. One
//! mutex per server guards the stack.
//!
//! What must never happen: a state is dropped under the lock. Each holds a clone of the user's service,
//! whose drop is user code.

use std::any::Any;
use std::mem::replace;

use crate::sync::Mutex;

/// The most states that are kept.
const KEPT: usize = 1024;
/// The number of ticks after which states that were not used meanwhile are dropped.
const TICKS: u32 = 4;

/// A stack: the state used last is taken first.
pub(super) struct ConnPool(Mutex<Stack>);

#[derive(Default)]
struct Stack {
    /// `Http1Conn`s, of one type per transport.
    conns: Vec<Box<dyn Any + Send>>,
    /// How many states at the bottom of the stack were in it during all ticks counted so far.
    unused: usize,
    ticks: u32,
}

impl ConnPool {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Stack::default()))
    }

    /// Puts a state onto the stack. If the stack is full, drops the oldest.
    pub(super) fn put<T: Send + 'static>(&self, pooled: Box<T>) {
        let mut stack = self.0.lock();
        let oldest = (stack.conns.len() == KEPT).then(|| stack.conns.remove(0));
        if oldest.is_some() {
            stack.unused = stack.unused.saturating_sub(1);
        }
        stack.conns.push(pooled);
        drop(stack);
        drop(oldest);
    }

    /// Takes the newest state of this type. Listeners in other modes have other types.
    pub(super) fn take<T: 'static>(&self) -> Option<Box<T>> {
        let mut stack = self.0.lock();
        let index = stack.conns.iter().rposition(|pooled| pooled.is::<T>())?;
        stack.unused = stack.unused.min(index);
        stack.conns.remove(index).downcast().ok()
    }

    /// Counts a tick. Every `TICKS` ticks drops the states that no connection has taken meanwhile.
    pub(super) fn tick(&self) {
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
    fn each_type_gets_its_own_last_first() {
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
    fn unused_states_are_dropped() {
        let pool = ConnPool::new();
        let while_passes = || {
            (0..TICKS).for_each(|_| pool.tick());
            pool.0.lock().conns.len()
        };
        (0..4).for_each(|number| pool.put(Box::new(number)));
        // The first count begins with an empty stack.
        assert_eq!(while_passes(), 4);
        let two = [(); 2].map(|()| pool.take::<i32>().unwrap());
        two.into_iter().for_each(|pooled| pool.put(pooled));
        assert_eq!(while_passes(), 2);
        assert_eq!(while_passes(), 0);
        assert_eq!(while_passes(), 0);
    }

    #[test]
    fn a_full_stack_drops_the_oldest() {
        let pool = ConnPool::new();
        (0..2 * KEPT).for_each(|number| pool.put(Box::new(number)));
        let kept: Vec<_> = std::iter::from_fn(|| pool.take::<usize>()).collect();
        assert!(kept.into_iter().map(|pooled| *pooled).eq((KEPT..2 * KEPT).rev()));
    }
}
