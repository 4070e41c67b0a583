//! From Redis to the hub: reads what the bus brings, in order, and fills from the logs what the feed lost.
//!
//! Nothing behind a loss is handed on before what was lost: a connection that has a message at one position has
//! everything before it, and its cursor says so.

mod continuity;
mod missing;
mod probe;
mod quiet;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use herald_bus::{Bus, BusError, Feed, FeedEvent};
use herald_chassis::{Backoff, Condition, Shutdown};
use herald_wire::{Epoch, Position, Target};

use self::continuity::{Continuity, Seen};
use self::missing::Missing;
pub(crate) use self::probe::{Probe, Probing};
use self::quiet::Expected;
use crate::delivery::{Delivery, now_us};
use crate::hub::{Hub, HubEnded};
use crate::keeper::Keeper;
use crate::metrics::FeedMetrics;
use crate::origin::Origins;

/// Messages taken from the bus at once, and handed to the hub as one batch.
pub(crate) const BATCH_MAX: usize = 256;

/// What every channel's last position is; shared with whoever subscribes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Positions(Arc<Mutex<Continuity>>);

impl Positions {
    /// These channels are subscribed to, and stood there.
    pub(crate) fn begin(&self, tails: impl IntoIterator<Item = (Target, Position)>) {
        let mut continuity = self.lock();
        tails.into_iter().for_each(|(target, tail)| continuity.begin(target, tail));
    }

    /// These channels are no longer subscribed to.
    pub(crate) fn end(&self, targets: &[Target]) {
        let mut continuity = self.lock();
        targets.iter().for_each(|target| continuity.end(target));
    }

    fn lock(&self) -> MutexGuard<'_, Continuity> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why what is missing was not handed on.
#[derive(Debug, thiserror::Error)]
enum Unfilled {
    #[error(transparent)]
    Hub(#[from] HubEnded),
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// What the feed's task works with.
pub(crate) struct FeedTask {
    pub(crate) bus: Bus,
    pub(crate) hub: Hub,
    pub(crate) origins: Origins,
    pub(crate) positions: Positions,
    pub(crate) probe: Probe,
    pub(crate) keeper: Keeper,
    pub(crate) condition: Condition,
    pub(crate) metrics: FeedMetrics,
}

impl FeedTask {
    /// Runs until the edge stops.
    pub(crate) async fn run(self, mut feed: Feed, shutdown: Shutdown) -> Result<(), HubEnded> {
        let mut events = Vec::with_capacity(BATCH_MAX);
        self.set_broken(true);
        loop {
            tokio::select! {
                () = shutdown.hard() => return Ok(()),
                taken = feed.next(&mut events, BATCH_MAX) => {
                    if taken == 0 {
                        return Ok(());
                    }
                }
            }
            let mut batch = Vec::with_capacity(events.len());
            for event in events.drain(..) {
                match event {
                    FeedEvent::Message { target, envelope } => {
                        self.take(target, envelope, &mut batch, &shutdown).await?;
                    }
                    FeedEvent::Down => {
                        self.condition.not_ready("the subscriptions on Redis are down");
                        self.set_broken(true);
                    }
                    FeedEvent::Interrupted { reason } => {
                        tracing::info!(
                            reason = reason.metric_label(),
                            "the feed was interrupted: reading the logs"
                        );
                        self.metrics.interruptions.increment(1);
                        self.hand_on(&mut batch).await?;
                        self.fill_all(&shutdown).await?;
                        self.set_broken(false);
                    }
                }
            }
            self.hand_on(&mut batch).await?;
        }
    }

    /// In a cluster each channel goes on by itself.
    fn set_broken(&self, broken: bool) {
        self.positions.lock().set_broken(broken && self.bus.has_one_clock());
    }

    async fn take(
        &self,
        target: Target,
        envelope: Bytes,
        batch: &mut Vec<Arc<Delivery>>,
        shutdown: &Shutdown,
    ) -> Result<(), HubEnded> {
        if self.probe.is_for(&target) {
            if let Some(expected) = self.probe.arrived(&envelope) {
                self.hand_on(batch).await?;
                self.compare(expected, shutdown).await?;
            }
            return Ok(());
        }
        self.metrics.received.increment(1);
        let delivery = match Delivery::read(target, envelope, &self.origins) {
            Ok(delivery) => delivery,
            Err(e) => {
                self.metrics.unreadable.increment(1);
                tracing::warn!("a message from Redis cannot be read: {e}");
                return Ok(());
            }
        };
        if let Some(place) = delivery.place {
            let seen = self.positions.lock().see(&delivery.target, place);
            match seen {
                Seen::Next => {}
                Seen::TooEarly => return Ok(()),
                Seen::Again => {
                    self.metrics.duplicates.increment(1);
                    return Ok(());
                }
                Seen::Hole(after) => {
                    self.hand_on(batch).await?;
                    let until = Position(place.position.0 - 1);
                    self.fill(vec![(delivery.target.clone(), after)], Some(until), shutdown).await?;
                }
            }
        }
        self.metrics.came(delivery.published_at_us);
        if delivery.is_expired() {
            self.metrics.expired.increment(1);
            return Ok(());
        }
        batch.push(Arc::new(delivery));
        Ok(())
    }

    async fn hand_on(&self, batch: &mut Vec<Arc<Delivery>>) -> Result<(), HubEnded> {
        if batch.is_empty() {
            return Ok(());
        }
        self.hub.deliver(&std::mem::take(batch)).await
    }

    /// A probe came back: what the logs held before it was published must have come too.
    async fn compare(&self, expected: Expected, shutdown: &Shutdown) -> Result<(), HubEnded> {
        if expected.epoch != self.origins.epoch() {
            tracing::warn!("Redis has lost its data: reading what its logs hold now");
            self.metrics.interruptions.increment(1);
            return self.fill_all(shutdown).await;
        }
        let missing = expected.missing(&self.positions.lock());
        if missing.is_empty() {
            return Ok(());
        }
        tracing::warn!(channels = missing.len(), "the feed lost messages without a sign: reading the logs");
        self.metrics.found_behind.increment(missing.len() as u64);
        // everything up to there came before the probe, in every other channel too
        let until = expected.tails.iter().map(|(_, tail)| *tail).max();
        self.fill(missing, until, shutdown).await
    }

    /// The feed may have lost anything: looks at every channel.
    async fn fill_all(&self, shutdown: &Shutdown) -> Result<(), HubEnded> {
        let mut backoff = Backoff::EAGER;
        let before = self.origins.epoch();
        let all = loop {
            match self.look_at_all(before).await {
                Ok(all) => break all,
                Err(Unfilled::Hub(e)) => return Err(e),
                Err(Unfilled::Bus(e)) => {
                    self.condition.not_ready("Redis does not answer");
                    tracing::warn!("cannot look at the logs, will try again: {e}");
                    if !backoff.wait(shutdown).await {
                        return Ok(());
                    }
                }
            }
        };
        self.fill(all, None, shutdown).await?;
        self.condition.ready();
        Ok(())
    }

    /// From where every channel is to be read. One whose log is not the one that was followed, because Redis lost its
    /// data or its last writes, begins anew, and its members are told what they may have missed.
    async fn look_at_all(&self, before: Epoch) -> Result<Vec<(Target, Position)>, Unfilled> {
        let epoch = self.bus.epoch().await?;
        let is_new_life = before != Epoch::default() && before != epoch;
        let mut all = self.positions.lock().all();
        let mut gaps = Vec::new();
        let now = Position(now_us());
        for some in all.chunks_mut(missing::TARGETS_AT_ONCE) {
            let targets: Vec<Target> = some.iter().map(|(target, _)| target.clone()).collect();
            for ((target, last), tail) in some.iter_mut().zip(self.bus.tails(&targets).await?) {
                let Some(from) = continuity::anew(*last, tail, is_new_life) else { continue };
                let gap = Delivery::gap(target.clone(), *last, now.max(*last)).anew(from);
                gaps.push(Arc::new(gap));
                *last = from;
            }
        }
        self.metrics.gaps.increment(gaps.len() as u64);
        for batch in gaps.chunks(BATCH_MAX) {
            self.hub.deliver(batch).await?;
        }
        let mut continuity = self.positions.lock();
        all.iter().for_each(|(target, last)| continuity.begin_anew(target, *last));
        self.origins.set(epoch);
        if is_new_life {
            self.keeper.data_lost();
        }
        Ok(all)
    }

    /// Hands on what the logs hold of these channels beyond these positions (`until` there, if given).
    async fn fill(
        &self,
        mut from: Vec<(Target, Position)>,
        until: Option<Position>,
        shutdown: &Shutdown,
    ) -> Result<(), HubEnded> {
        let mut backoff = Backoff::EAGER;
        loop {
            match self.try_fill(&mut from, until).await {
                Ok(()) => return Ok(()),
                Err(Unfilled::Hub(e)) => return Err(e),
                Err(Unfilled::Bus(e)) => {
                    self.condition.not_ready("the logs on Redis cannot be read");
                    tracing::warn!("cannot read the logs, will try again: {e}");
                    if !backoff.wait(shutdown).await {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Moves `from` on with what it hands on.
    async fn try_fill(
        &self,
        from: &mut Vec<(Target, Position)>,
        until: Option<Position>,
    ) -> Result<(), Unfilled> {
        let mut missing = Missing::of((&self.bus, &self.origins), from, until).await?;
        while let Some(page) = missing.page().await? {
            self.metrics.recovered.increment(page.messages as u64);
            self.metrics.gaps.increment(page.gaps as u64);
            for batch in page.deliveries.chunks(BATCH_MAX) {
                self.hub.deliver(batch).await?;
            }
            let mut continuity = self.positions.lock();
            for (target, position) in page.reached {
                continuity.reach(target, position);
            }
            *from = missing.places();
        }
        Ok(())
    }
}
