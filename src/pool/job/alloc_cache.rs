//! Memory for cells, which each thread caches for its next jobs.
//!
//! `raw.rs` alone calls this file: to allocate a cell, and to release it on any thread.
//! A pool frees about as many cells as it allocates, in batches longer than an allocator's
//! per-thread cache. A free list per thread and size class serves such batches without the allocator.
//! No lock is needed: a list belongs to one thread (S8). Its length has a limit, and the memory
//! returns to the allocator when the thread ends.
//! A block must never be on a list while a cell uses it.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::{self, NonNull};

use crate::sync::without;

/// The bytes of a block, by size class. A cell without its future and output has about 80 bytes.
/// Larger cells are not cached.
const SIZES: [usize; 4] = [128, 256, 512, 1_024];
/// The blocks that a thread keeps, by size class: 768 KiB in all.
const MAX_FREE: [usize; 4] = [1_024, 1_024, 256, 256];
const ALIGN: usize = 16;

thread_local! {
    static FREE_LISTS: [FreeList; 4] =
        const { [FreeList::new(0), FreeList::new(1), FreeList::new(2), FreeList::new(3)] };
}

/// Free blocks of one size class, each with a pointer to the next.
struct FreeList {
    size_class: usize,
    top: Cell<*mut FreeBlock>,
    len: Cell<usize>,
}

struct FreeBlock {
    next: *mut FreeBlock,
}

/// Returns memory for a `C`, not initialized. The caller owns the memory.
#[inline]
pub(crate) fn allocate<C>() -> NonNull<C> {
    allocate_block(layout::<C>()).cast()
}

/// Returns memory of a layout that [`layout`] gives.
#[inline]
fn allocate_block(layout: Layout) -> NonNull<u8> {
    let block = match size_class(layout) {
        Some(size_class) if !without("allocation cache") => {
            // A thread that ends has no lists any more.
            FREE_LISTS.try_with(|lists| lists[size_class].pop()).unwrap_or(ptr::null_mut())
        }
        _ => ptr::null_mut(),
    };
    NonNull::new(block.cast()).unwrap_or_else(|| {
        // SAFETY: the size is not zero, because every cell has a header (S7).
        let fresh = unsafe { alloc(layout) };
        NonNull::new(fresh).unwrap_or_else(|| handle_alloc_error(layout))
    })
}

/// Takes the memory of a `C` back, on any thread.
///
/// # Safety
///
/// The memory came from `allocate::<C>`, its content is dropped, and the caller gives it up.
#[inline]
pub(crate) unsafe fn release<C>(memory: NonNull<C>) {
    // SAFETY: the caller vouches for the memory (S8).
    unsafe { release_block(memory.as_ptr().cast(), layout::<C>()) };
}

/// Takes the memory of a block back.
///
/// # Safety
///
/// The block came from `allocate_block` with this layout, its content is dropped, and the caller gives
/// it up.
#[inline]
unsafe fn release_block(block: *mut FreeBlock, layout: Layout) {
    let cached = !without("allocation cache")
        && size_class(layout).is_some_and(|size_class| {
            // SAFETY: the caller gave the block up, and it has this size class by its layout (S8).
            FREE_LISTS.try_with(|lists| unsafe { lists[size_class].push(block) }) == Ok(true)
        });
    if !cached {
        // SAFETY: `allocate_block` used this layout, and no list has the block (S8).
        unsafe { dealloc(block.cast(), layout) };
    }
}

/// Returns the cached memory of this thread to the allocator. Called when a worker retires: the pool
/// had no jobs for a while.
pub(crate) fn trim() {
    let _ = FREE_LISTS.try_with(|lists| lists.iter().for_each(FreeList::clear));
}

/// The layout that is allocated for a `C`. All cells of a size class share one layout.
const fn layout<C>() -> Layout {
    let exact = Layout::new::<C>();
    match size_class(exact) {
        Some(size_class) => match Layout::from_size_align(SIZES[size_class], ALIGN) {
            Ok(layout) => layout,
            Err(_) => unreachable!(),
        },
        None => exact,
    }
}

/// The size class of a block for this layout; `None` if such blocks are not cached.
///
/// AddressSanitizer and loom see no use after the end in a block that serves the next job already.
/// So nothing is cached for them.
const fn size_class(layout: Layout) -> Option<usize> {
    if cfg!(any(millpond_loom, millpond_asan)) || layout.align() > ALIGN {
        return None;
    }
    let mut size_class = 0;
    while size_class < SIZES.len() {
        if layout.size() <= SIZES[size_class] {
            return Some(size_class);
        }
        size_class += 1;
    }
    None
}

impl FreeList {
    const fn new(size_class: usize) -> Self {
        Self { size_class, top: Cell::new(ptr::null_mut()), len: Cell::new(0) }
    }

    /// Takes the latest block off the list. Returns null if the list is empty.
    fn pop(&self) -> *mut FreeBlock {
        let block = self.top.get();
        if !block.is_null() {
            // SAFETY: a block on the list has no other user, and `push` wrote a `FreeBlock` (S8).
            self.top.set(unsafe { (*block).next });
            self.len.set(self.len.get() - 1);
        }
        block
    }

    /// Puts a block on the list. Returns `false` if the list is full; the caller keeps the block.
    ///
    /// # Safety
    ///
    /// The block has this list's size class, and the caller owns it.
    unsafe fn push(&self, block: *mut FreeBlock) -> bool {
        if self.len.get() == MAX_FREE[self.size_class] {
            return false;
        }
        // SAFETY: the caller owns the block, and the smallest size class holds a `FreeBlock` (S8).
        unsafe { block.write(FreeBlock { next: self.top.get() }) };
        self.top.set(block);
        self.len.set(self.len.get() + 1);
        true
    }
}

impl FreeList {
    /// Returns all blocks to the allocator.
    fn clear(&self) {
        let layout =
            Layout::from_size_align(SIZES[self.size_class], ALIGN).expect("checked in `layout`");
        loop {
            let block = self.pop();
            if block.is_null() {
                break;
            }
            // SAFETY: all blocks of a list were allocated with this layout, and none has a user (S8).
            unsafe { dealloc(block.cast(), layout) };
        }
    }
}

impl Drop for FreeList {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(all(test, not(any(millpond_loom, millpond_asan))))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_caches_a_limited_number_and_reuses_the_latest() {
        let blocks: Vec<_> = (0..=MAX_FREE[0]).map(|_| allocate::<[u64; 12]>()).collect();
        for &block in &blocks {
            // SAFETY: allocated as this type above, and released once (S8).
            unsafe { release(block) };
        }
        let lens = || FREE_LISTS.with(|lists| lists.each_ref().map(|list| list.len.get()));
        assert_eq!(lens(), [MAX_FREE[0], 0, 0, 0]);
        let again = allocate::<[u64; 10]>();
        assert_eq!(
            again.cast(),
            blocks[MAX_FREE[0] - 1].cast::<u8>(),
            "the latest block is reused first"
        );
        // SAFETY: allocated as this type above, and released once (S8).
        unsafe { release(again) };
        trim();
        assert_eq!(lens(), [0; 4]);
    }

    #[test]
    fn the_allocated_layout_has_the_size_class_of_its_type() {
        fn is<C>(expected: Option<usize>) {
            assert_eq!(size_class(Layout::new::<C>()), expected);
            assert_eq!(size_class(layout::<C>()), expected);
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
    fn large_and_aligned_cells_are_not_cached() {
        #[repr(align(64))]
        struct Aligned(#[allow(dead_code)] u8);

        let aligned = allocate::<Aligned>();
        assert_eq!(aligned.as_ptr() as usize % 64, 0);
        let large = allocate::<[u64; 200]>();
        // SAFETY: each was allocated as its type, and is released once (S8).
        unsafe {
            release(aligned);
            release(large);
        }
        FREE_LISTS.with(|lists| assert!(lists.iter().all(|list| list.len.get() == 0)));
    }
}
