//! From Redis to the hub: reads what the bus brings, in order, and fills from the logs what the feed lost.
//!
//! Nothing behind a loss is handed on before what was lost: a connection that has a message at one position has
//! everything before it, and its cursor says so.

mod continuity;
mod missing;
mod probe;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use herald_bus::{Bus, Feed, FeedEvent};
use herald_chassis::{Backoff, Condition, Shutdown};
use herald_wire::{Position, Target};

use self::continuity::{Continuity, Seen};
pub(crate) use self::probe::Probe;
use crate::delivery::Delivery;
use crate::hub::{Hub, HubEnded};
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

/// What the feed's task works with.
pub(crate) struct FeedTask {
    pub(crate) bus: Bus,
    pub(crate) hub: Hub,
    pub(crate) origins: Origins,
    pub(crate) positions: Positions,
    pub(crate) probe: Probe,
    pub(crate) condition: Condition,
    pub(crate) metrics: FeedMetrics,
}

impl FeedTask {
    /// Runs until the edge stops.
    pub(crate) async fn run(self, mut feed: Feed, shutdown: Shutdown) -> Result<(), HubEnded> {
        let mut events = Vec::with_capacity(BATCH_MAX);
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
                    FeedEvent::Down => self.condition.not_ready("the subscriptions on Redis are down"),
                    FeedEvent::Interrupted { reason } => {
                        tracing::info!(
                            reason = reason.metric_label(),
                            "the feed was interrupted: reading the logs"
                        );
                        self.metrics.interruptions.increment(1);
                        self.hand_on(&mut batch).await?;
                        self.fill_all(&shutdown).await?;
                    }
                }
            }
            self.hand_on(&mut batch).await?;
        }
    }

    async fn take(
        &self,
        target: Target,
        envelope: Bytes,
        batch: &mut Vec<Arc<Delivery>>,
        shutdown: &Shutdown,
    ) -> Result<(), HubEnded> {
        if self.probe.is_for(&target) {
            self.probe.arrived(&envelope);
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
        self.hub.deliver(std::mem::take(batch).into()).await
    }

    /// The feed may have lost anything: looks at every channel.
    async fn fill_all(&self, shutdown: &Shutdown) -> Result<(), HubEnded> {
        let mut backoff = Backoff::EAGER;
        while let Err(e) = self.origins.refresh().await {
            self.condition.not_ready("Redis does not answer");
            tracing::warn!("cannot read the epoch, will try again: {e}");
            if !backoff.wait(shutdown).await {
                return Ok(());
            }
        }
        let all = self.positions.lock().all();
        self.fill(all, None, shutdown).await?;
        self.condition.ready();
        Ok(())
    }

    /// Hands on what the logs hold of these channels beyond these positions (`until` there, if given).
    async fn fill(
        &self,
        from: Vec<(Target, Position)>,
        until: Option<Position>,
        shutdown: &Shutdown,
    ) -> Result<(), HubEnded> {
        let mut backoff = Backoff::EAGER;
        loop {
            match missing::read(&self.bus, &self.origins, &from, until).await {
                Ok(missing) => {
                    self.metrics.recovered.increment(missing.messages as u64);
                    self.metrics.gaps.increment(missing.gaps as u64);
                    for (target, position) in missing.reached {
                        self.positions.lock().reach(target, position);
                    }
                    for batch in missing.deliveries.chunks(BATCH_MAX) {
                        self.hub.deliver(batch.into()).await?;
                    }
                    return Ok(());
                }
                Err(e) => {
                    self.condition.not_ready("the logs on Redis cannot be read");
                    tracing::warn!("cannot read the logs, will try again: {e}");
                    if !backoff.wait(shutdown).await {
                        return Ok(());
                    }
                }
            }
        }
    }
}
