//! Whether a slot outlives its job.

use crate::sync::atomic::AtomicU32;
use crate::sync::atomic::Ordering::AcqRel;
use crate::sync::failpoint;

/// Shared by a job and by whoever holds its slot. It does not refer to the job: a job's result may
/// hold the job's own slot.
#[derive(Debug)]
pub(crate) struct SlotHold(AtomicU32);

/// The job has ended.
const ENDED: u32 = 1;
/// The holder has let go.
const RELEASED: u32 = 1 << 1;

impl SlotHold {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// The job has ended. Whether its slot stays taken.
    pub(crate) fn end(&self) -> bool {
        self.0.fetch_or(ENDED, AcqRel) & RELEASED == 0
    }

    /// The holder lets go. `true` if the job has ended: then the slot is the holder's to be freed.
    pub(crate) fn release(&self) -> bool {
        self.0.fetch_or(RELEASED, AcqRel) & ENDED != 0
            && !failpoint("guard released without recheck")
    }
}
