//! A slab whose memory comes back: entries under keys that do not move, in pages.
//!
//! The wait list keeps its waiters here, and each shard its suspended jobs. Their keys stand in jobs
//! and in futures, so an entry cannot move, and a plain slab keeps the memory of its largest moment.
//! This slab frees a page when the page's last entry is removed. After a peak, the memory is at most
//! one page for each entry that is left, and one more.
//!
//! The owner's lock protects the slab. No method runs code of an entry.

use std::collections::VecDeque;

use slab::Slab;

/// The entries of a page.
const PAGE: usize = 512;

pub(crate) struct PagedSlab<T> {
    pages: Vec<Page<T>>,
    /// Pages that are not full, each once. The last one takes the next entry.
    with_room: VecDeque<u32>,
    len: usize,
}

struct Page<T> {
    entries: Slab<T>,
    /// The page stands in `with_room`.
    has_room: bool,
}

impl<T> PagedSlab<T> {
    pub(crate) const fn new() -> Self {
        Self { pages: Vec::new(), with_room: VecDeque::new(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the key that the next `insert` will use.
    pub(crate) fn vacant_key(&self) -> usize {
        match self.with_room.back() {
            Some(&page) => page as usize * PAGE + self.pages[page as usize].entries.vacant_key(),
            None => self.pages.len() * PAGE,
        }
    }

    /// Adds an entry. Returns its key, which is reused once the entry is removed.
    #[inline]
    pub(crate) fn insert(&mut self, entry: T) -> usize {
        let page = match self.with_room.back() {
            Some(&page) => page as usize,
            None => self.add_page(),
        };
        let entries = &mut self.pages[page].entries;
        let key = page * PAGE + entries.insert(entry);
        if entries.len() == PAGE {
            self.pages[page].has_room = false;
            self.with_room.pop_back();
        }
        self.len += 1;
        key
    }

    #[cold]
    fn add_page(&mut self) -> usize {
        let page = self.pages.len();
        self.pages.push(Page { entries: Slab::new(), has_room: true });
        self.with_room.push_back(page as u32);
        page
    }

    /// Removes the entry of this key.
    ///
    /// # Panics
    ///
    /// Panics if there is none.
    #[inline(always)]
    pub(crate) fn remove(&mut self, key: usize) -> T {
        let (number, page) = (key / PAGE, &mut self.pages[key / PAGE]);
        let entry = page.entries.remove(key % PAGE);
        self.len -= 1;
        if !page.has_room {
            page.has_room = true;
            self.with_room.push_back(number as u32);
        }
        // The first page keeps its memory: a slab that is often empty must not allocate each time.
        if number > 0 && page.entries.is_empty() {
            self.free_page(number);
        }
        entry
    }

    /// Returns whether the memory of an entry stays when the entry is removed.
    #[inline]
    pub(crate) fn keeps(&self, key: usize) -> bool {
        key < PAGE
    }

    /// Frees the memory of an empty page.
    #[cold]
    fn free_page(&mut self, number: usize) {
        self.pages[number].entries = Slab::new();
        if self.len == self.pages[0].entries.len() {
            self.pages.truncate(1);
            self.pages.shrink_to_fit();
            self.with_room = self.pages[0].has_room.then_some(0).into_iter().collect();
        } else if self.with_room.back() == Some(&(number as u32)) {
            // The next entry goes to another page. In the end that is one with memory: a page that
            // has other entries, or the first page.
            self.with_room.rotate_right(1);
        }
    }

    #[inline]
    pub(crate) fn get(&self, key: usize) -> Option<&T> {
        self.pages.get(key / PAGE)?.entries.get(key % PAGE)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: usize) -> Option<&mut T> {
        self.pages.get_mut(key / PAGE)?.entries.get_mut(key % PAGE)
    }

    /// Returns all entries with their keys, in the order of the keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.pages.iter().enumerate().flat_map(|(number, page)| {
            page.entries.iter().map(move |(key, entry)| (number * PAGE + key, entry))
        })
    }
}

impl<T> std::ops::Index<usize> for PagedSlab<T> {
    type Output = T;

    fn index(&self, key: usize) -> &T {
        self.get(key).expect("a key names an entry until that is removed")
    }
}

impl<T> std::ops::IndexMut<usize> for PagedSlab<T> {
    fn index_mut(&mut self, key: usize) -> &mut T {
        self.get_mut(key).expect("a key names an entry until that is removed")
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;

    /// Entries for which the slab has memory.
    fn capacity<T>(slab: &PagedSlab<T>) -> usize {
        slab.pages.iter().map(|page| page.entries.capacity()).sum()
    }

    #[test]
    fn a_key_names_its_entry_until_that_is_removed() {
        let mut slab = PagedSlab::new();
        let mut keys = Vec::new();
        for n in 0..PAGE * 3 + 5 {
            assert_eq!(slab.vacant_key(), n);
            keys.push(slab.insert(n));
        }
        assert!(keys.iter().copied().eq(0..PAGE * 3 + 5));
        for &key in keys.iter().step_by(3) {
            assert_eq!(slab.remove(key), key);
            assert!(slab.get(key).is_none());
        }
        assert_eq!(slab.iter().count(), slab.len());
        for n in 0..PAGE * 2 {
            let key = slab.vacant_key();
            assert!(slab.get(key).is_none());
            assert_eq!(slab.insert(n), key);
            assert_eq!(slab[key], n);
        }
        assert_eq!(slab.iter().count(), slab.len());
        assert!(slab.iter().all(|(key, entry)| slab[key] == *entry));
    }

    #[test]
    fn memory_comes_back_around_an_entry_that_stays() {
        let mut slab = PagedSlab::new();
        for n in 0..PAGE * 100 {
            slab.insert(n);
        }
        let stays = PAGE * 57 + 3;
        (0..PAGE * 100).filter(|key| *key != stays).for_each(|key| _ = slab.remove(key));
        assert!(capacity(&slab) <= PAGE * 2, "{}", capacity(&slab));
        // Entries that come and go end up in a page that keeps its memory.
        for _ in 0..300 {
            let key = slab.insert(0);
            slab.remove(key);
        }
        let before = capacity(&slab);
        let key = slab.insert(0);
        assert_eq!(capacity(&slab), before, "key {key}");
        slab.remove(key);
        assert_eq!(slab.remove(stays), stays);
        assert_eq!((slab.len(), slab.pages.len()), (0, 1));
        assert!(slab.vacant_key() < PAGE);
        assert!(slab.pages.capacity() < 4);
    }

    #[test]
    fn pages_come_back_beside_a_full_first_one() {
        let mut slab = PagedSlab::new();
        for n in 0..PAGE * 100 {
            slab.insert(n);
        }
        (PAGE..PAGE * 100).for_each(|key| _ = slab.remove(key));
        assert_eq!((slab.len(), slab.pages.len(), slab.vacant_key()), (PAGE, 1, PAGE));
        assert_eq!(slab.insert(PAGE), PAGE);
        assert!(slab.keeps(PAGE - 1) && !slab.keeps(PAGE));
        assert_eq!((slab.remove(PAGE), slab.remove(3)), (PAGE, 3));
        assert_eq!(slab.vacant_key(), 3);
    }
}
