//! Tasks that end with their owner.

use tokio_util::task::AbortOnDropHandle;

/// Starts a task that is aborted when the handle is dropped.
#[expect(clippy::disallowed_methods, reason = "the handle owns the task")]
pub fn spawn_owned<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> AbortOnDropHandle<T> {
    AbortOnDropHandle::new(tokio::spawn(task))
}
