//! Reads the logs for connections that lag, resume, or have a mailbox, and hands the entries to their shards at the
//! pace at which each connection takes them, until it can follow the live feed again.
//!
//! The last step is the delicate one. Before each read the shard is asked to hold back what is live. A read that finds
//! the end of every log brings the connection up to the clock read just before; whatever was published after that is
//! among the frames held back, since the shard began to hold before the clock was read. The shard drops of those what
//! the read brought too, appends the rest, and the connection is live. If more is held back than may be, the shard
//! forgets it and the catch-up reads on.

mod merge;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use herald_bus::Bus;
use herald_chassis::{Backoff, Shutdown};
use herald_wire::{Position, Target, TargetKind};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use self::merge::{Merged, Place, Read};
use crate::delivery::{Delivery, Encoding};
use crate::hub::{Class, Command, ConnectionId, Frame, Hub, Page, PageDone, Standing};
use crate::metrics::CatchUpMetrics;
use crate::origin::Origins;

/// A connection asks for its logs to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lagging {
    pub(crate) id: ConnectionId,
    pub(crate) encoding: Encoding,
}

/// Entries of one log in one read.
const ENTRIES_AT_ONCE: usize = 64;
/// Connections whose logs are read at the same time.
const CATCH_UPS_MAX: usize = 64;

/// What a catch-up works with.
#[derive(Clone)]
pub(crate) struct CatchUps {
    pub(crate) bus: Bus,
    pub(crate) hub: Hub,
    pub(crate) origins: Origins,
    pub(crate) metrics: CatchUpMetrics,
}

/// Serves connections that ask, until the edge stops.
pub(crate) async fn run(catch_ups: CatchUps, mut asking: mpsc::Receiver<Lagging>, shutdown: Shutdown) {
    let places = Arc::new(Semaphore::new(CATCH_UPS_MAX));
    let tasks = TaskTracker::new();
    loop {
        let lagging = tokio::select! {
            () = shutdown.hard() => return,
            lagging = asking.recv() => lagging,
        };
        let (Some(lagging), Ok(place)) = (lagging, places.clone().acquire_owned().await) else { return };
        let catch_ups = catch_ups.clone();
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            catch_ups.metrics.running.increment(1.0);
            tokio::select! {
                () = shutdown.hard() => {}
                // an end without being live: the connection closed meanwhile
                _ = catch_ups.catch_up(lagging, &shutdown) => {}
            }
            catch_ups.metrics.running.decrement(1.0);
            drop(place);
        });
    }
}

/// The connection is gone.
struct Gone;

impl CatchUps {
    async fn catch_up(&self, lagging: Lagging, shutdown: &Shutdown) -> Result<(), Gone> {
        let mut places: Vec<Place> = Vec::new();
        let mut backoff = Backoff::EAGER;
        loop {
            let standing = self.hold(lagging.id).await?;
            reconcile(&mut places, standing.targets);
            let merged = match self.read(&mut places).await {
                Ok(merged) => merged,
                Err(e) => {
                    self.metrics.failures.increment(1);
                    tracing::warn!(connection = lagging.id, "the logs cannot be read, will try again: {e}");
                    if !backoff.wait(shutdown).await {
                        return Err(Gone);
                    }
                    continue;
                }
            };
            backoff.reset();
            let reached = merged.ended.then(|| places.iter().map(|p| (p.target.clone(), p.after)).collect());
            let frames = self.frames(merged, &lagging, standing.position);
            let (done, answer) = oneshot::channel();
            self.send(lagging.id, Command::Page { id: lagging.id, page: Page { frames, reached }, done })
                .await?;
            if answer.await.map_err(|_| Gone)? == PageDone::Live {
                self.metrics.finished.increment(1);
                return Ok(());
            }
        }
    }

    async fn hold(&self, id: ConnectionId) -> Result<Standing, Gone> {
        let (held, standing) = oneshot::channel();
        self.send(id, Command::Hold { id, held }).await?;
        standing.await.map_err(|_| Gone)
    }

    async fn send(&self, id: ConnectionId, command: Command) -> Result<(), Gone> {
        self.hub.send(id, command).await.map_err(|_| Gone)
    }

    async fn read(&self, places: &mut [Place]) -> Result<Merged, herald_bus::BusError> {
        let clock = self.bus.clock().await?;
        let targets: Vec<Target> = places.iter().map(|place| place.target.clone()).collect();
        let tails = self.bus.tails(&targets).await?;
        let from: Vec<(Target, Position)> = places.iter().map(|p| (p.target.clone(), p.after)).collect();
        let logs = self.bus.read_logs(&from, ENTRIES_AT_ONCE).await?;
        let reads = logs.into_iter().zip(tails).map(|(entries, tail)| Read { entries, tail }).collect();
        Ok(merge::merge(places, reads, clock, ENTRIES_AT_ONCE))
    }

    /// The frames of one page: what is missing first, then the entries, without those whose time is over.
    fn frames(&self, merged: Merged, lagging: &Lagging, position: Position) -> Vec<Frame> {
        let mut frames = Vec::with_capacity(merged.gaps.len() + merged.entries.len());
        for gap in &merged.gaps {
            self.metrics.gaps.increment(1);
            let gap = Delivery::gap(gap.target.clone(), gap.from, gap.to);
            frames.push(Frame { bytes: gap.frame(lagging.encoding), class: Class::Control });
        }
        for (target, entry) in merged.entries {
            let mailbox = matches!(target.kind(), TargetKind::Socket(_));
            let Ok(mut delivery) = Delivery::read(target, entry.envelope, &self.origins) else {
                self.metrics.unreadable.increment(1);
                continue;
            };
            if delivery.is_expired() {
                self.metrics.expired.increment(1);
                continue;
            }
            if mailbox && entry.position < position {
                delivery = delivery.behind(position);
            }
            self.metrics.replayed.increment(1);
            let class = Class::Reliable { position: entry.position, mailbox };
            frames.push(Frame { bytes: delivery.frame(lagging.encoding), class });
        }
        frames
    }
}

/// Keeps the places of targets that are still joined, and takes up the new ones.
fn reconcile(places: &mut Vec<Place>, targets: Vec<(Target, Position)>) {
    places.retain(|place| targets.iter().any(|(target, _)| *target == place.target));
    for (target, after) in targets {
        if !places.iter().any(|place| place.target == target) {
            places.push(Place { target, after });
        }
    }
}
