//! One partition's task: carries out what the protocol commands, renews the lease beside it.

use crate::{
    Lease, Shared,
    executor::{Executor, renew},
    metrics,
    protocol::{Command, Elapsed, Event, Machine},
    trouble::Trouble,
};
use std::{pin::Pin, sync::Arc, time::Duration};
use tokio::time::Instant;
use weir_runtime::Shutdown;

/// A chunk under way at shutdown gets so long to be finished; one that is not is redone later.
const DRAIN: Duration = Duration::from_secs(10);

/// A release that does not get through in this time is left to the lease's end.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

type Renewal = Pin<Box<dyn Future<Output = (Event, Option<String>)> + Send>>;

/// Works on a partition until shutdown, whatever fails on the way.
pub(crate) async fn run(shared: Arc<Shared>, partition: u32, shutdown: Shutdown) {
    let mut worker = Worker {
        machine: Machine::new(partition, shared.config.settings()),
        executor: Executor::new(Arc::clone(&shared), partition),
        partition,
        origin: Instant::now(),
        renewal: None,
        renewing: Trouble::default(),
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

/// Returns when what was under way at shutdown has had its time.
pub(crate) async fn drained(shutdown: &Shutdown) {
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
    renewing: Trouble,
}

impl Worker {
    fn now(&self) -> Elapsed {
        self.origin.elapsed()
    }

    async fn work(&mut self, shutdown: &Shutdown) {
        let mut command = self.machine.start(self.now());
        loop {
            if self.is_too_much() {
                command = self.let_go().await;
                continue;
            }
            let Some(event) = self.carry_out(command, shutdown).await else { return };
            let now = self.now();
            command = match self.machine.handle(&event, now) {
                Some(next) => next,
                // Only renewals have no next command, and none of them gets here.
                None => Command::Wait { until: now },
            };
            self.executor.committed(self.machine.committed());
            show_lease(&self.shared, self.partition, &self.machine, self.origin);
        }
    }

    /// Whether the partition is held and another aggregator should have it, now that there is
    /// nothing under way.
    fn is_too_much(&self) -> bool {
        let held = self.machine.epoch().is_some() && self.machine.is_between_chunks();
        held && !self.shared.wants(self.partition)
    }

    /// Gives the partition to whom it belongs; the next command is to claim it again, in its time.
    async fn let_go(&mut self) -> Command {
        tracing::info!(partition = self.partition, "partition released: others have fewer");
        metrics::partition_released();
        self.renewal = None;
        let epoch = self.machine.epoch();
        let command = self.machine.let_go(self.now());
        // Before others can claim it: a roll must not begin an insert here any more.
        show_lease(&self.shared, self.partition, &self.machine, self.origin);
        if let Some(epoch) = epoch {
            release(&self.shared, self.partition, epoch).await;
        }
        self.executor.retire().await;
        command
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
                (event, error) = poll(&mut self.renewal), if self.renewal.is_some() => {
                    self.renewal = None;
                    note_renewal(&mut self.renewing, self.partition, &event, error);
                    self.machine.handle(&event, origin.elapsed());
                    show_lease(&self.shared, self.partition, &self.machine, origin);
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

    /// Gives the partition up at the end of the process.
    async fn leave(&mut self) {
        self.executor.leave();
        if let Some(shown) = self.shared.leases.get(self.partition as usize) {
            shown.send_replace(None);
        }
        if let Some(epoch) = self.machine.epoch() {
            release(&self.shared, self.partition, epoch).await;
        }
    }
}

/// Lets another owner have the partition at once.
async fn release(shared: &Shared, partition: u32, epoch: u64) {
    let release = async {
        let mut connection = shared.pool.acquire().await?;
        weir_store::partitions::release(&mut connection, partition, epoch).await
    };
    // Where it fails the lease runs out by itself.
    match tokio::time::timeout(RELEASE_TIMEOUT, release).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(partition, %error, "partition not released"),
        Err(_) => tracing::warn!(partition, "partition not released in time"),
    }
}

/// Says that renewals fail when they begin to, and that they work again.
fn note_renewal(renewing: &mut Trouble, partition: u32, event: &Event, error: Option<String>) {
    let Some(error) = error else {
        if matches!(event, Event::Renewed { .. }) {
            renewing.worked_in(partition, "renew");
        }
        return;
    };
    metrics::failed("renew");
    if renewing.failed("renew") {
        tracing::warn!(partition, error, "lease not renewed, will be tried again");
    } else {
        tracing::debug!(partition, error, "lease not renewed");
    }
}

/// Tells those who write beside the chunks, under the same epoch.
fn show_lease(shared: &Shared, partition: u32, machine: &Machine, origin: Instant) {
    let lease = machine.lease().map(|(epoch, until)| Lease { epoch, until: origin + until });
    if let Some(shown) = shared.leases.get(partition as usize) {
        shown.send_if_modified(|held| std::mem::replace(held, lease) != lease);
    }
}

async fn poll(renewal: &mut Option<Renewal>) -> (Event, Option<String>) {
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
