//! Waiting for a condition.

use std::time::Duration;

use tokio::time::Instant;

/// Long enough for anything on a busy machine that is expected to happen soon.
pub const SOON: Duration = Duration::from_secs(60);

/// Looks again and again until it sees what it waits for. `look` gives `Err` with what it saw instead.
///
/// # Panics
/// When the condition does not hold within `limit`; the message tells what was seen last.
pub async fn wait_until<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        let seen = match look().await {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        assert!(Instant::now() < deadline, "waited {limit:?} until {what}; seen last: {seen}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
