//! The two ends an edge holds: what to carry ([`Subscriptions`]) and what came ([`Feed`]). How it is carried is
//! `memory`'s and `on_redis`' business.

use std::sync::Arc;

use herald_wire::Target;
use tokio_util::task::AbortOnDropHandle;

use crate::memory::MemorySubscriptions;
use crate::on_redis::RedisSubscriptions;
use crate::queue::FeedQueue;
use crate::{BusError, FeedEvent};

/// Says what a feed carries. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Subscriptions(pub(crate) Carrier);

#[derive(Clone, Debug)]
pub(crate) enum Carrier {
    Memory(MemorySubscriptions),
    Redis(RedisSubscriptions),
}

impl Subscriptions {
    /// Resolves when every one of them is subscribed: what is published from then on arrives. Waits while the feed is
    /// down. One call may be given any number of targets; calls made meanwhile share their round trips.
    ///
    /// Dropping the future ends the waiting, not the wish: unsubscribe to take it back.
    ///
    /// # Errors
    /// [`BusError::FeedEnded`] when the feed was dropped.
    pub async fn subscribe(&self, targets: &[Target]) -> Result<(), BusError> {
        match &self.0 {
            Carrier::Memory(subscriptions) => subscriptions.subscribe(targets),
            Carrier::Redis(subscriptions) => subscriptions.subscribe(targets).await,
        }
    }

    /// Messages that were under way still arrive. While the feed is down, resolves at once. Of a `subscribe` and an
    /// `unsubscribe` of the same target the later call wins.
    ///
    /// # Errors
    /// [`BusError::FeedEnded`] when the feed was dropped.
    pub async fn unsubscribe(&self, targets: &[Target]) -> Result<(), BusError> {
        match &self.0 {
            Carrier::Memory(subscriptions) => subscriptions.unsubscribe(targets),
            Carrier::Redis(subscriptions) => subscriptions.unsubscribe(targets).await,
        }
    }
}

/// What came in. Dropping it ends the feed.
#[derive(Debug)]
pub struct Feed {
    pub(crate) queue: Arc<FeedQueue>,
    /// The task that holds the connections, where there is one.
    pub(crate) _task: Option<AbortOnDropHandle<()>>,
}

impl Feed {
    /// Waits for at least one event and appends up to `max`, in order; returns how many. Dropping the future loses
    /// nothing.
    ///
    /// Zero means that the feed's own task ended, which only a bug does: end the process.
    pub async fn next(&mut self, into: &mut Vec<FeedEvent>, max: usize) -> usize {
        self.queue.next(into, max).await
    }

    /// For those who watch it and do not read it.
    pub fn gauge(&self) -> FeedGauge {
        FeedGauge(self.queue.clone())
    }
}

/// Tells how full a feed's queue is. Cloning is a reference count.
#[derive(Clone, Debug)]
pub struct FeedGauge(Arc<FeedQueue>);

impl FeedGauge {
    /// 0 to 1000, by whichever of [`FeedLimits`](crate::FeedLimits) is nearer.
    pub fn fullness_permille(&self) -> u32 {
        self.0.fullness_permille()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.queue.close();
    }
}
