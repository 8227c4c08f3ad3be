//! Work that waits for the disk or for the processor, kept off the threads that must answer in time.

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::JoinError,
};

/// Does `work` on a thread for blocking work and waits for it. On a runtime of one thread there is nobody to spare, and
/// it is done here and now; so whoever runs everything on one thread gets the same order of events each time.
///
/// # Errors
/// The runtime is shutting down, and the work was not begun; or it panicked.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    begin(work).await
}

/// The same, begun at once, whether anyone waits for it yet or not; on a runtime of one thread it is done when someone
/// does.
pub(crate) fn begin<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, JoinError>> + Send {
    let begun = match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => Err(work),
        _ => Ok(tokio::task::spawn_blocking(work)),
    };
    async move {
        match begun {
            Ok(task) => task.await,
            Err(work) => Ok(work()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn on_one_thread_it_is_done_in_place() {
        let here = thread::current().id();
        assert_eq!(run(move || thread::current().id()).await.unwrap(), here);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_is_begun_goes_on_before_anyone_waits() {
        let (told, heard) = std::sync::mpsc::channel();
        let begun = begin(move || told.send(7).is_ok());
        // This thread is taken, so it was another one.
        assert_eq!(heard.recv(), Ok(7));
        assert!(begun.await.unwrap());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn on_many_threads_it_is_done_elsewhere() {
        let worker = tokio::spawn(async { (thread::current().id(), run(|| thread::current().id()).await.unwrap()) });
        let (worker, worked) = worker.await.unwrap();
        assert_ne!(worker, worked);
    }
}
