//! Limits on what costs work and moves nothing.
//!
//! Bytes are limited by windows, streams by their number. What is left are frames without effect: PING, empty DATA, tiny
//! WINDOW, frames for streams that have ended, streams that are opened and reset at once. A peer may send a few of them by
//! good right and by bad luck; each one beyond takes a token from a bucket that fills up slowly.

use std::time::{Duration, Instant};

use crate::end::ProtocolError;

/// Tokens of a full bucket.
const BURST: u32 = 4096;
/// A new token comes in this often: 1000 a second.
const REFILL: Duration = Duration::from_millis(1);
/// Frames that may still be on their way for a stream that has just ended: OPENED, FIN, RST and a few WINDOW.
const LATE_FRAMES: u32 = 8;

/// What one peer may still waste.
#[derive(Debug)]
pub struct FloodGuard {
    tokens: u32,
    filled_at: Instant,
    late_frames: u32,
    late_bytes: u64,
}

impl FloodGuard {
    pub fn new(now: Instant) -> Self {
        Self { tokens: BURST, filled_at: now, late_frames: 0, late_bytes: 0 }
    }

    /// Takes a token for a frame without effect.
    pub fn spend(&mut self, now: Instant) -> Result<(), ProtocolError> {
        let elapsed = now.saturating_duration_since(self.filled_at);
        let new = u32::try_from(elapsed.as_millis() / REFILL.as_millis()).unwrap_or(BURST);
        if new > 0 {
            self.tokens = self.tokens.saturating_add(new).min(BURST);
            self.filled_at = now;
        }
        self.tokens = self.tokens.checked_sub(1).ok_or(ProtocolError::Flood)?;
        Ok(())
    }

    /// Notes that a stream has ended on this side while the peer could still send `bytes` on it.
    pub fn stream_ended(&mut self, bytes: u64) {
        self.late_frames = self.late_frames.saturating_add(LATE_FRAMES);
        self.late_bytes = self.late_bytes.saturating_add(bytes);
    }

    /// A frame other than DATA has come for a stream that is no more.
    pub fn late_frame(&mut self, now: Instant) -> Result<(), ProtocolError> {
        match self.late_frames.checked_sub(1) {
            Some(left) => {
                self.late_frames = left;
                Ok(())
            }
            None => self.spend(now),
        }
    }

    /// DATA has come for a stream that is no more. All such streams together cannot send more than their windows allowed.
    pub fn late_data(&mut self, bytes: usize, now: Instant) -> Result<(), ProtocolError> {
        if bytes == 0 {
            return self.late_frame(now);
        }
        self.late_bytes = self.late_bytes.checked_sub(bytes as u64).ok_or(ProtocolError::WindowOverrun)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_empties_and_fills() {
        let start = Instant::now();
        let mut guard = FloodGuard::new(start);
        for _ in 0..BURST {
            assert_eq!(guard.spend(start), Ok(()));
        }
        assert_eq!(guard.spend(start), Err(ProtocolError::Flood));
        let later = start + Duration::from_millis(3);
        assert_eq!(guard.spend(later), Ok(()));
        assert_eq!(guard.spend(later), Ok(()));
        assert_eq!(guard.spend(later), Ok(()));
        assert_eq!(guard.spend(later), Err(ProtocolError::Flood));
    }

    #[test]
    fn late_data_is_bounded_by_the_windows_that_were_given() {
        let now = Instant::now();
        let mut guard = FloodGuard::new(now);
        guard.stream_ended(100);
        assert_eq!(guard.late_data(60, now), Ok(()));
        assert_eq!(guard.late_data(40, now), Ok(()));
        assert_eq!(guard.late_data(1, now), Err(ProtocolError::WindowOverrun));
    }
}
