//! Maps by connection.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::conn::table::ConnKey;

/// Nobody from outside chooses keys, so nobody can have them collide.
pub(crate) type ConnMap<T> = HashMap<ConnKey, T, BuildHasherDefault<KeyHasher>>;

#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(byte.into()));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0.rotate_left(32) ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        // The map looks at the lowest bits and at the highest.
        self.0.rotate_left(32)
    }
}
