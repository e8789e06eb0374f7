//! The memory that the bodies of invokes take, of all callers together. An invoke holds both bodies whole, so without a
//! bound of the process a few callers with large bodies would take all there is.
//!
//! What is counted is what arrives, as it arrives: nobody holds a share by announcing a body. Nothing waits for memory,
//! since those who wait hold some themselves: what does not fit is refused.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What there is for all.
#[derive(Debug)]
pub(crate) struct InvokeMemory {
    free: Arc<Semaphore>,
    limit: usize,
}

/// What one invoke holds; given back on drop.
#[derive(Debug)]
pub(crate) struct Held {
    free: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

/// There is not as much left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// Bytes that are counted until nobody needs them any more.
struct Counted(Vec<u8>, #[expect(dead_code, reason = "held")] Held);

impl InvokeMemory {
    /// So many bytes for all.
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(limit)), limit }
    }

    /// Nothing yet.
    pub(crate) fn hold(&self) -> Held {
        Held { free: Arc::clone(&self.free), permit: None }
    }

    /// How many bytes there are for all.
    pub(crate) const fn limit(&self) -> usize {
        self.limit
    }
}

impl Held {
    /// Takes so much more.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Full> {
        let bytes = u32::try_from(bytes).map_err(|_| Full)?;
        let more = Arc::clone(&self.free).try_acquire_many_owned(bytes).map_err(|_| Full)?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }

    /// Bytes that hold this until the last of them is written or dropped.
    pub(crate) fn with(self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Counted(bytes, self))
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_given_back_with_the_last_byte() {
        let memory = InvokeMemory::new(100);
        let (mut one, mut other) = (memory.hold(), memory.hold());
        one.grow(60).unwrap();
        one.grow(30).unwrap();
        assert_eq!((other.grow(11), other.grow(10)), (Err(Full), Ok(())));
        let mut bytes = one.with(b"answer".to_vec());
        let tail = bytes.split_off(3);
        drop(bytes);
        assert_eq!(memory.hold().grow(1), Err(Full), "the rest is not sent yet");
        drop(tail);
        memory.hold().grow(90).unwrap();
        drop(other);
        memory.hold().grow(memory.limit()).unwrap();
        assert_eq!(memory.hold().grow(usize::MAX), Err(Full));
    }
}
