//! Memory for cells, kept by each thread for its next jobs.
//!
//! A pool frees about as many cells as it allocates, in batches that are longer than an
//! allocator's per-thread cache: kept here, a cell costs a fifth of what the allocator takes for
//! one. What a thread keeps is bounded, and goes back to the allocator when the thread ends.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::{self, NonNull};

/// Cells of at most this many bytes are kept: the pool's own part of one is about 80.
const SMALL: usize = 128;
const LARGE: usize = 256;
const ALIGN: usize = 16;

/// How many of each kind a thread keeps: 384 KiB in all.
const KEPT: usize = 1_024;

thread_local! {
    static STOCK: [Stack; 2] = const { [Stack::new(SMALL), Stack::new(LARGE)] };
}

/// Free blocks of one size, each with a pointer to the next.
struct Stack {
    size: usize,
    top: Cell<*mut Block>,
    len: Cell<usize>,
}

struct Block {
    next: *mut Block,
}

/// Memory for a `C`, not initialized.
#[inline]
pub(super) fn allocate<C>() -> NonNull<C> {
    let layout = layout::<C>();
    let block = match kind(layout) {
        Some(kind) => STOCK.try_with(|stock| stock[kind].pop()).unwrap_or(ptr::null_mut()),
        None => ptr::null_mut(),
    };
    NonNull::new(block.cast()).unwrap_or_else(|| {
        // SAFETY: a cell has a header, so its size is not zero.
        let fresh = unsafe { alloc(layout) };
        NonNull::new(fresh.cast()).unwrap_or_else(|| handle_alloc_error(layout))
    })
}

/// Gives the memory of a `C` back, on any thread.
///
/// # Safety
///
/// It came from `allocate::<C>`, and what it held has been dropped.
#[inline]
pub(super) unsafe fn release<C>(memory: NonNull<C>) {
    let layout = layout::<C>();
    let block = memory.as_ptr().cast::<Block>();
    // SAFETY: the memory is ours, and every kind has room for a pointer.
    let kept = kind(layout)
        .is_some_and(|kind| STOCK.try_with(|stock| unsafe { stock[kind].push(block) }) == Ok(true));
    if !kept {
        // SAFETY: allocated with this layout, by the contract above.
        unsafe { dealloc(block.cast(), layout) };
    }
}

/// What is really allocated for a `C`: all small ones are alike, and so are all large ones.
const fn layout<C>() -> Layout {
    let exact = Layout::new::<C>();
    let size = match exact.size() {
        size if size <= SMALL => SMALL,
        size if size <= LARGE => LARGE,
        _ => return exact,
    };
    if exact.align() > ALIGN {
        return exact;
    }
    match Layout::from_size_align(size, ALIGN) {
        Ok(layout) => layout,
        Err(_) => unreachable!(),
    }
}

/// Which stack keeps blocks of this layout. None does under AddressSanitizer, which would take a
/// block used after its end for the next job's.
const fn kind(layout: Layout) -> Option<usize> {
    if cfg!(any(millpond_loom, millpond_asan)) || layout.align() != ALIGN {
        return None;
    }
    match layout.size() {
        SMALL => Some(0),
        LARGE => Some(1),
        _ => None,
    }
}

impl Stack {
    const fn new(size: usize) -> Self {
        Self { size, top: Cell::new(ptr::null_mut()), len: Cell::new(0) }
    }

    /// A block, or null.
    fn pop(&self) -> *mut Block {
        let block = self.top.get();
        if !block.is_null() {
            // SAFETY: what is on the stack is memory given up by its last user, with a `Block` in it.
            self.top.set(unsafe { (*block).next });
            self.len.set(self.len.get() - 1);
        }
        block
    }

    /// `false` if there are enough.
    ///
    /// # Safety
    ///
    /// The block is memory of this stack's size, and nobody else uses it.
    unsafe fn push(&self, block: *mut Block) -> bool {
        if self.len.get() == KEPT {
            return false;
        }
        // SAFETY: by the contract above.
        unsafe { block.write(Block { next: self.top.get() }) };
        self.top.set(block);
        self.len.set(self.len.get() + 1);
        true
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let layout = Layout::from_size_align(self.size, ALIGN).expect("checked in `layout`");
        loop {
            let block = self.pop();
            if block.is_null() {
                break;
            }
            // SAFETY: everything on the stack was allocated with this layout.
            unsafe { dealloc(block.cast(), layout) };
        }
    }
}

#[cfg(all(test, not(any(millpond_loom, millpond_asan))))]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_keeps_is_bounded_and_comes_first() {
        let blocks: Vec<_> = (0..=KEPT).map(|_| allocate::<[u64; 12]>()).collect();
        for &block in &blocks {
            // SAFETY: allocated as this type above, and given back once.
            unsafe { release(block) };
        }
        STOCK.with(|stock| assert_eq!((stock[0].len.get(), stock[1].len.get()), (KEPT, 0)));
        let again = allocate::<[u64; 10]>();
        assert_eq!(again.cast(), blocks[KEPT - 1].cast::<u8>(), "the last one kept, still warm");
        // SAFETY: as above.
        unsafe { release(again) };
    }

    #[test]
    fn unusual_cells_have_memory_of_their_own() {
        #[repr(align(64))]
        struct Aligned(#[allow(dead_code)] u8);

        let aligned = allocate::<Aligned>();
        assert_eq!(aligned.as_ptr() as usize % 64, 0);
        let large = allocate::<[u64; 100]>();
        // SAFETY: each was allocated as the type it is released as.
        unsafe {
            release(aligned);
            release(large);
        }
        STOCK.with(|stock| assert_eq!(stock[0].len.get() + stock[1].len.get(), 0));
    }
}
