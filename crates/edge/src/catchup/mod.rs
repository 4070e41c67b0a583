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

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::RandomState;
use herald_bus::{Bus, BusError};
use herald_chassis::{Backoff, Shutdown};
use herald_wire::{Envelope, Position, Target, TargetKind};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::task::TaskTracker;

pub(crate) use self::merge::{Merged, Place, Read, merge};
use crate::delivery::{Delivery, Encoding};
use crate::hub::{Begin, Class, Command, ConnectionId, Frame, Hub, OneOfCopies, Page, PageDone, Standing};
use crate::metrics::CatchUpMetrics;
use crate::origin::Origins;

/// A connection asks for its logs to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lagging {
    pub(crate) id: ConnectionId,
    pub(crate) encoding: Encoding,
}

/// Entries of one log in one read,
const ENTRIES_AT_ONCE: usize = 64;
/// and of all logs of a connection together, where that leaves each log one.
const ENTRIES_AT_ONCE_ALL: usize = 1_024;
/// Reads of logs at the same time. A client that takes its time with what was read holds up no other's read.
const READS_MAX: usize = 64;
/// Entries of each log before the place where a session resumes, among which its copies are looked for.
const LOOK_BACK: usize = 32;

/// What a catch-up works with.
#[derive(Clone)]
pub(crate) struct CatchUps {
    pub(crate) bus: Bus,
    pub(crate) hub: Hub,
    pub(crate) origins: Origins,
    /// Bytes of messages handed to a connection at once.
    pub(crate) page_bytes_max: usize,
    pub(crate) metrics: CatchUpMetrics,
}

/// Serves connections that ask, until the edge stops.
pub(crate) async fn run(catch_ups: CatchUps, mut asking: mpsc::Receiver<Lagging>, shutdown: Shutdown) {
    let reads = Arc::new(Semaphore::new(READS_MAX));
    let tasks = TaskTracker::new();
    loop {
        let lagging = tokio::select! {
            () = shutdown.hard() => return,
            lagging = asking.recv() => lagging,
        };
        let Some(lagging) = lagging else { return };
        // one for each connection that lags, and there are only so many connections
        let mut catch_up = CatchUp::new(catch_ups.clone(), lagging, reads.clone());
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            let running = catch_up.with.metrics.running.clone();
            running.increment(1.0);
            tokio::select! {
                () = shutdown.hard() => {}
                // an end without being live: the connection closed meanwhile
                _ = catch_up.run(&shutdown) => {}
            }
            running.decrement(1.0);
        });
    }
}

/// The connection is gone.
struct Gone;

/// One connection's way back to the live feed.
struct CatchUp {
    with: CatchUps,
    lagging: Lagging,
    reads: Arc<Semaphore>,
    places: Vec<Place>,
    /// Where another connection of the session may have been given copies of what is read here.
    begun: Vec<Begin>,
    copies: Copies,
}

/// Numbers of messages with several targets.
type Copies = HashSet<u64, RandomState>;

impl CatchUp {
    fn new(with: CatchUps, lagging: Lagging, reads: Arc<Semaphore>) -> Self {
        Self { with, lagging, reads, places: Vec::new(), begun: Vec::new(), copies: Copies::default() }
    }

    async fn run(&mut self, shutdown: &Shutdown) -> Result<(), Gone> {
        let mut backoff = Backoff::EAGER;
        loop {
            let standing = self.hold().await?;
            self.reconcile(standing.targets);
            let merged = match self.read().await {
                Ok(merged) => merged,
                Err(e) => {
                    self.with.metrics.failures.increment(1);
                    tracing::warn!(
                        connection = self.lagging.id,
                        "the logs cannot be read, will try again: {e}"
                    );
                    if !backoff.wait(shutdown).await {
                        return Err(Gone);
                    }
                    continue;
                }
            };
            backoff.reset();
            let reached = |place: &Place| (place.target.clone(), place.after);
            let reached = merged.ended.then(|| self.places.iter().map(reached).collect());
            let frames = self.frames(merged, standing.position);
            let (done, answer) = oneshot::channel();
            let id = self.lagging.id;
            self.send(Command::Page { id, page: Page { frames, reached }, done }).await?;
            if answer.await.map_err(|_| Gone)? == PageDone::Live {
                self.with.metrics.finished.increment(1);
                return Ok(());
            }
        }
    }

    async fn hold(&self) -> Result<Standing, Gone> {
        let (held, standing) = oneshot::channel();
        self.send(Command::Hold { id: self.lagging.id, held }).await?;
        standing.await.map_err(|_| Gone)
    }

    async fn send(&self, command: Command) -> Result<(), Gone> {
        self.with.hub.send(self.lagging.id, command).await.map_err(|_| Gone)
    }

    /// Keeps the places of targets that are still joined, and takes up the new ones.
    fn reconcile(&mut self, targets: Vec<Begin>) {
        let new = reconcile(&mut self.places, targets);
        self.begun.extend(new.into_iter().filter(|begin| begin.joined < begin.after));
    }

    async fn read(&mut self) -> Result<Merged, BusError> {
        let _reading = self.reads.acquire().await;
        let bus = &self.with.bus;
        let limit = (ENTRIES_AT_ONCE_ALL / self.places.len().max(1)).clamp(1, ENTRIES_AT_ONCE);
        let clock = bus.clock().await?;
        let targets: Vec<Target> = self.places.iter().map(|place| place.target.clone()).collect();
        let tails = bus.tails(&targets).await?;
        let from: Vec<(Target, Position)> = self.places.iter().map(|p| (p.target.clone(), p.after)).collect();
        let logs = bus.read_logs(&from, limit).await?;
        let has_copies = |entry: &herald_bus::Entry| copies_id(&entry.envelope).is_some();
        if !self.begun.is_empty() && logs.iter().flatten().any(has_copies) {
            self.copies = look_back(bus, &self.begun).await?;
            self.begun = Vec::new();
        }
        let reads = logs.into_iter().zip(tails).map(|(entries, tail)| Read { entries, tail }).collect();
        let mut places = self.places.clone();
        let mut merged = merge(&mut places, reads, clock, limit);
        merge::cut(&mut merged, &mut places, &self.places, self.with.page_bytes_max);
        self.places = places;
        Ok(merged)
    }

    /// The frames of one page: what is missing first, then the entries, without those whose time is over.
    fn frames(&self, merged: Merged, position: Position) -> Vec<OneOfCopies> {
        let CatchUps { metrics, origins, .. } = &self.with;
        let mut frames = Vec::with_capacity(merged.gaps.len() + merged.entries.len());
        let mut push = |delivery: &Delivery, class| {
            let frame = Frame { bytes: delivery.frame(self.lagging.encoding), class };
            frames.push(OneOfCopies { copies_id: delivery.copies_id, frame });
        };
        for gap in &merged.gaps {
            metrics.gaps.increment(1);
            push(&Delivery::gap(gap.target.clone(), gap.from, gap.to), Class::Control);
        }
        for (target, entry) in merged.entries {
            let mailbox = matches!(target.kind(), TargetKind::Socket(_));
            let Ok(mut delivery) = Delivery::read(target, entry.envelope, origins) else {
                metrics.unreadable.increment(1);
                continue;
            };
            if delivery.is_expired() {
                metrics.expired.increment(1);
                continue;
            }
            if self.copies.contains(&delivery.copies_id) {
                metrics.copies.increment(1);
                continue;
            }
            if mailbox && entry.position < position {
                delivery = delivery.behind(position);
            }
            metrics.replayed.increment(1);
            push(&delivery, Class::Reliable { position: entry.position, mailbox });
        }
        frames
    }
}

/// Keeps the places of targets that are still joined, and takes up the new ones, which are answered.
fn reconcile(places: &mut Vec<Place>, targets: Vec<Begin>) -> Vec<Begin> {
    places.retain(|place| targets.iter().any(|begin| begin.target == place.target));
    let is_new = |begin: &Begin| !places.iter().any(|place| place.target == begin.target);
    let new: Vec<Begin> = targets.into_iter().filter(is_new).collect();
    places.extend(new.iter().map(|begin| Place { target: begin.target.clone(), after: begin.after }));
    new
}

fn copies_id(envelope: &bytes::Bytes) -> Option<u64> {
    Envelope::read(envelope.clone()).ok().map(|envelope| envelope.copies_id).filter(|id| *id != 0)
}

/// A message for several targets has a copy in the log of each, and the session may have been given one of them before
/// the place from which it resumes: which copies stand there.
async fn look_back(bus: &Bus, begun: &[Begin]) -> Result<Copies, BusError> {
    let upto: Vec<(Target, Position)> = begun.iter().map(|b| (b.target.clone(), b.after)).collect();
    let logs = bus.read_logs_back(&upto, LOOK_BACK).await?;
    let given = begun.iter().zip(&logs).flat_map(|(begin, log)| {
        log.iter()
            .filter(|entry| entry.position > begin.joined)
            .filter_map(|entry| copies_id(&entry.envelope))
    });
    Ok(given.collect())
}
