//! Memory for cells, kept by each thread for its next jobs.
//!
//! A pool frees about as many cells as it allocates, in batches that are longer than an
//! allocator's per-thread cache: kept here, a cell costs a fifth of what the allocator takes for
//! one. What a thread keeps is bounded, and goes back to the allocator when the thread ends.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::{self, NonNull};

/// How many bytes a block of each kind has; the pool's own part of a cell is about 80. Larger cells
/// are not kept.
const SIZES: [usize; 4] = [128, 256, 512, 1_024];
/// How many of each kind a thread keeps: 768 KiB in all.
const KEPT: [usize; 4] = [1_024, 1_024, 256, 256];
const ALIGN: usize = 16;

thread_local! {
    static STOCK: [Stack; 4] =
        const { [Stack::new(0), Stack::new(1), Stack::new(2), Stack::new(3)] };
}

/// Free blocks of one kind, each with a pointer to the next.
struct Stack {
    kind: usize,
    top: Cell<*mut Block>,
    len: Cell<usize>,
}

struct Block {
    next: *mut Block,
}

/// Memory for a `C`, not initialized.
#[inline]
pub(crate) fn allocate<C>() -> NonNull<C> {
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
pub(crate) unsafe fn release<C>(memory: NonNull<C>) {
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

/// What is really allocated for a `C`: all of a kind are alike.
const fn layout<C>() -> Layout {
    let exact = Layout::new::<C>();
    match kind(exact) {
        Some(kind) => match Layout::from_size_align(SIZES[kind], ALIGN) {
            Ok(layout) => layout,
            Err(_) => unreachable!(),
        },
        None => exact,
    }
}

/// Of what kind a block for this layout is. None is kept under AddressSanitizer, which would take a
/// block used after its end for the next job's.
const fn kind(layout: Layout) -> Option<usize> {
    if cfg!(any(millpond_loom, millpond_asan)) || layout.align() > ALIGN {
        return None;
    }
    let mut kind = 0;
    while kind < SIZES.len() {
        if layout.size() <= SIZES[kind] {
            return Some(kind);
        }
        kind += 1;
    }
    None
}

impl Stack {
    const fn new(kind: usize) -> Self {
        Self { kind, top: Cell::new(ptr::null_mut()), len: Cell::new(0) }
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
        if self.len.get() == KEPT[self.kind] {
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
        let layout = Layout::from_size_align(SIZES[self.kind], ALIGN).expect("checked in `layout`");
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
        let blocks: Vec<_> = (0..=KEPT[0]).map(|_| allocate::<[u64; 12]>()).collect();
        for &block in &blocks {
            // SAFETY: allocated as this type above, and given back once.
            unsafe { release(block) };
        }
        let lens = || STOCK.with(|stock| stock.each_ref().map(|stack| stack.len.get()));
        assert_eq!(lens(), [KEPT[0], 0, 0, 0]);
        let again = allocate::<[u64; 10]>();
        assert_eq!(again.cast(), blocks[KEPT[0] - 1].cast::<u8>(), "the last one kept, still warm");
        // SAFETY: as above.
        unsafe { release(again) };
    }

    #[test]
    fn what_is_allocated_is_of_the_kind_that_it_is_kept_as() {
        fn is<C>(expected: Option<usize>) {
            assert_eq!(kind(Layout::new::<C>()), expected);
            assert_eq!(kind(layout::<C>()), expected);
            assert!(layout::<C>().size() >= size_of::<C>());
        }
        is::<u8>(Some(0));
        is::<[u8; 128]>(Some(0));
        is::<[u8; 129]>(Some(1));
        is::<[u8; 256]>(Some(1));
        is::<[u8; 257]>(Some(2));
        is::<[u8; 512]>(Some(2));
        is::<[u8; 513]>(Some(3));
        is::<[u8; 1_024]>(Some(3));
        is::<[u8; 1_025]>(None);
    }

    #[test]
    fn unusual_cells_have_memory_of_their_own() {
        #[repr(align(64))]
        struct Aligned(#[allow(dead_code)] u8);

        let aligned = allocate::<Aligned>();
        assert_eq!(aligned.as_ptr() as usize % 64, 0);
        let large = allocate::<[u64; 200]>();
        // SAFETY: each was allocated as the type it is released as.
        unsafe {
            release(aligned);
            release(large);
        }
        STOCK.with(|stock| assert!(stock.iter().all(|stack| stack.len.get() == 0)));
    }
}
