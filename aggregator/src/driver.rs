//! One partition's task: carries out what the protocol commands, renews the lease beside it.

use crate::{
    Shared,
    executor::{Executor, renew},
    protocol::{Command, Elapsed, Event, Machine},
};
use std::{pin::Pin, sync::Arc, time::Duration};
use tokio::time::Instant;
use weir_runtime::Shutdown;

/// A chunk under way at shutdown gets so long to be finished; one that is not is redone later.
const DRAIN: Duration = Duration::from_secs(10);

type Renewal = Pin<Box<dyn Future<Output = Event> + Send>>;

/// Works on a partition until shutdown, whatever fails on the way.
pub(crate) async fn run(shared: Arc<Shared>, partition: u32, shutdown: Shutdown) {
    let mut worker = Worker {
        machine: Machine::new(partition, shared.config.settings()),
        executor: Executor::new(Arc::clone(&shared), partition),
        partition,
        origin: Instant::now(),
        renewal: None,
        shared,
    };
    tokio::select! {
        () = worker.work(&shutdown) => {}
        () = drained(&shutdown) => {
            tracing::warn!(partition, "a chunk was under way at shutdown, it will be redone");
        }
    }
    worker.leave().await;
}

async fn drained(shutdown: &Shutdown) {
    shutdown.cancelled().await;
    tokio::time::sleep(DRAIN).await;
}

struct Worker {
    shared: Arc<Shared>,
    partition: u32,
    machine: Machine,
    executor: Executor,
    origin: Instant,
    renewal: Option<Renewal>,
}

impl Worker {
    fn now(&self) -> Elapsed {
        self.origin.elapsed()
    }

    async fn work(&mut self, shutdown: &Shutdown) {
        let mut command = self.machine.start(self.now());
        loop {
            let Some(event) = self.carry_out(command, shutdown).await else { return };
            let now = self.now();
            command = match self.machine.handle(&event, now) {
                Some(next) => next,
                // Only renewals have no next command, and none of them gets here.
                None => Command::Wait { until: now },
            };
            self.executor.committed(self.machine.committed());
        }
    }

    /// The outcome of a command; none when it is time to end.
    async fn carry_out(&mut self, command: Command, shutdown: &Shutdown) -> Option<Event> {
        let may_stop = self.machine.is_between_chunks();
        let origin = self.origin;
        let operation = self.executor.carry_out(command, origin);
        tokio::pin!(operation);
        loop {
            let renew_at = self.machine.renewal_at().map(|at| origin + at);
            tokio::select! {
                () = shutdown.cancelled(), if may_stop => return None,
                event = &mut operation => return Some(event),
                event = poll(&mut self.renewal), if self.renewal.is_some() => {
                    self.renewal = None;
                    self.machine.handle(&event, origin.elapsed());
                }
                () = at(renew_at), if self.renewal.is_none() && renew_at.is_some() => {
                    self.renewal = self.machine.epoch().map(|epoch| {
                        let shared = Arc::clone(&self.shared);
                        let sent_at = origin.elapsed();
                        Box::pin(renew(shared, self.partition, epoch, sent_at)) as Renewal
                    });
                }
            }
        }
    }

    /// Lets another owner have the partition at once.
    async fn leave(&mut self) {
        self.executor.leave();
        let Some(epoch) = self.machine.epoch() else { return };
        let release = async {
            let mut connection = self.shared.pool.acquire().await?;
            weir_store::partitions::release(&mut connection, self.partition, epoch).await
        };
        // Where it fails the lease runs out by itself.
        match tokio::time::timeout(Duration::from_secs(2), release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(partition = self.partition, %error, "partition not released");
            }
            Err(_) => tracing::warn!(partition = self.partition, "partition not released in time"),
        }
    }
}

async fn poll(renewal: &mut Option<Renewal>) -> Event {
    match renewal {
        Some(renewal) => renewal.await,
        None => std::future::pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
