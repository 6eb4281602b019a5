//! Memory for cells, cached by each thread for its next jobs.
//!
//! A pool frees about as many cells as it allocates, in batches that are longer than an
//! allocator's per-thread cache: cached here, a cell costs a fifth of what the allocator takes for
//! one. What a thread keeps is bounded, and goes back to the allocator when the thread ends.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::{self, NonNull};

/// How many bytes a block of each size class has; the pool's own part of a cell is about 80. Larger cells
/// are not cached.
const SIZES: [usize; 4] = [128, 256, 512, 1_024];
/// How many of each size class a thread keeps: 768 KiB in all.
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

/// Memory for a `C`, not initialized.
#[inline]
pub(crate) fn allocate<C>() -> NonNull<C> {
    let layout = layout::<C>();
    let block = match size_class(layout) {
        Some(size_class) => {
            FREE_LISTS.try_with(|lists| lists[size_class].pop()).unwrap_or(ptr::null_mut())
        }
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
    let block = memory.as_ptr().cast::<FreeBlock>();
    // SAFETY: the memory is ours, and every size class has room for a pointer.
    let cached = size_class(layout).is_some_and(|size_class| {
        FREE_LISTS.try_with(|lists| unsafe { lists[size_class].push(block) }) == Ok(true)
    });
    if !cached {
        // SAFETY: allocated with this layout, by the contract above.
        unsafe { dealloc(block.cast(), layout) };
    }
}

/// What is really allocated for a `C`: all of a size class are alike.
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

/// Of what size class a block for this layout is. None is cached under AddressSanitizer, which would take a
/// block used after its end for the next job's.
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

    /// A block, or null.
    fn pop(&self) -> *mut FreeBlock {
        let block = self.top.get();
        if !block.is_null() {
            // SAFETY: what is on the list is memory given up by its last user, with a `FreeBlock` in it.
            self.top.set(unsafe { (*block).next });
            self.len.set(self.len.get() - 1);
        }
        block
    }

    /// `false` if there are enough.
    ///
    /// # Safety
    ///
    /// The block is memory of this list's size, and nobody else uses it.
    unsafe fn push(&self, block: *mut FreeBlock) -> bool {
        if self.len.get() == MAX_FREE[self.size_class] {
            return false;
        }
        // SAFETY: by the contract above.
        unsafe { block.write(FreeBlock { next: self.top.get() }) };
        self.top.set(block);
        self.len.set(self.len.get() + 1);
        true
    }
}

impl Drop for FreeList {
    fn drop(&mut self) {
        let layout =
            Layout::from_size_align(SIZES[self.size_class], ALIGN).expect("checked in `layout`");
        loop {
            let block = self.pop();
            if block.is_null() {
                break;
            }
            // SAFETY: everything on the list was allocated with this layout.
            unsafe { dealloc(block.cast(), layout) };
        }
    }
}

#[cfg(all(test, not(any(millpond_loom, millpond_asan))))]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_keeps_is_bounded_and_comes_first() {
        let blocks: Vec<_> = (0..=MAX_FREE[0]).map(|_| allocate::<[u64; 12]>()).collect();
        for &block in &blocks {
            // SAFETY: allocated as this type above, and given back once.
            unsafe { release(block) };
        }
        let lens = || FREE_LISTS.with(|lists| lists.each_ref().map(|list| list.len.get()));
        assert_eq!(lens(), [MAX_FREE[0], 0, 0, 0]);
        let again = allocate::<[u64; 10]>();
        assert_eq!(
            again.cast(),
            blocks[MAX_FREE[0] - 1].cast::<u8>(),
            "the last one cached, still warm"
        );
        // SAFETY: as above.
        unsafe { release(again) };
    }

    #[test]
    fn what_is_allocated_is_of_the_kind_that_it_is_kept_as() {
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
        FREE_LISTS.with(|lists| assert!(lists.iter().all(|list| list.len.get() == 0)));
    }
}
