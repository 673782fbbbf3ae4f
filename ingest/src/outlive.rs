//! Work that is finished also when nobody waits for it any more.
//!
//! What has been handed to the log must be settled, or a retry would not be told that it is one. The
//! work runs in its request's own task: a task for each request costs more than a small request's
//! parsing. Only when its request is dropped, by a sender that is gone or out of time, it gets one.

use std::pin::Pin;
use std::task::{Context, Poll};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

/// A future that goes on in a task of its own when it is dropped before its end.
pub struct Outliving<F: Future + Send + 'static> {
    /// None after its end.
    work: Option<Pin<Box<F>>>,
    /// The tracker waits for the work, wherever it runs.
    token: Option<TaskTrackerToken>,
}

impl<F: Future + Send + 'static> Outliving<F> {
    /// `tracker` waits until the work is done.
    pub fn new(work: F, tracker: &TaskTracker) -> Self {
        Self { work: Some(Box::pin(work)), token: Some(tracker.token()) }
    }
}

impl<F: Future + Send + 'static> Future for Outliving<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(work) = &mut self.work else { return Poll::Pending };
        let polled = work.as_mut().poll(context);
        if polled.is_ready() {
            self.work = None;
            self.token = None;
        }
        polled
    }
}

impl<F: Future + Send + 'static> Drop for Outliving<F> {
    fn drop(&mut self) {
        let (Some(work), token) = (self.work.take(), self.token.take()) else { return };
        // Work that panicked can't go on; without a runtime nothing can.
        if std::thread::panicking() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                work.await;
                drop(token);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::Semaphore;

    async fn work(gate: Arc<Semaphore>, done: Arc<AtomicU32>) -> u32 {
        drop(gate.acquire().await);
        done.fetch_add(1, Ordering::SeqCst) + 1
    }

    #[tokio::test]
    async fn dropped_work_is_finished_and_waited_for() {
        let (gate, done) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU32::new(0)));
        let tracker = TaskTracker::new();
        let mut waited = Outliving::new(work(gate.clone(), done.clone()), &tracker);
        let mut dropped = Outliving::new(work(gate.clone(), done.clone()), &tracker);
        let unpolled = Outliving::new(work(gate.clone(), done.clone()), &tracker);
        assert!(futures::poll!(&mut waited).is_pending());
        assert!(futures::poll!(&mut dropped).is_pending());
        drop(dropped);
        drop(unpolled);
        gate.add_permits(1);
        assert_eq!(waited.await, 1, "in its own task first");
        tracker.close();
        tracker.wait().await;
        assert_eq!(done.load(Ordering::SeqCst), 3);
    }
}
