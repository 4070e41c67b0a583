//! Sends a message to itself through Redis now and then: a feed that looks alive and brings nothing is the worst
//! failure a message centre can have, since everything else stays green.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use herald_bus::{Bus, Publication, Subscriptions};
use herald_chassis::{Condition, Shutdown};
use herald_wire::{Envelope, Target};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::metrics::FeedMetrics;
use crate::pressure::Lateness;

/// Between probes: they tell too how late the feed is ([`crate::pressure`]).
const EVERY: Duration = Duration::from_millis(200);
/// A probe that is not back by then is lost.
const PATIENCE: Duration = Duration::from_secs(4);

/// Cloning is a reference count.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    target: Target,
    /// The number of the last probe that came back.
    arrived: Arc<watch::Sender<u64>>,
}

impl Probe {
    pub(crate) fn new(edge_id: &str) -> Self {
        Self { target: herald_wire::names::probe(edge_id), arrived: Arc::new(watch::Sender::new(0)) }
    }

    pub(super) fn is_for(&self, target: &Target) -> bool {
        *target == self.target
    }

    pub(super) fn arrived(&self, envelope: &Bytes) {
        if let Ok(envelope) = Envelope::read(envelope.clone()) {
            self.arrived.send_replace(envelope.copies_id);
        }
    }

    /// Probes until the edge stops; says not ready while probes do not come back.
    pub(crate) async fn run(
        self,
        (bus, subscriptions): (Bus, Subscriptions),
        condition: Condition,
        (metrics, lateness): (FeedMetrics, Lateness),
        shutdown: Shutdown,
    ) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut subscribed = false;
        for number in 1.. {
            tokio::select! {
                () = shutdown.hard() => return,
                _ = ticks.tick() => {}
            }
            let begun = Instant::now();
            lateness.probing(begun);
            let probing = self.probe(&bus, &subscriptions, (&mut subscribed, number));
            let back = tokio::select! {
                () = shutdown.hard() => return,
                back = timeout(PATIENCE, probing) => back.unwrap_or(false),
            };
            lateness.probed(back.then(|| begun.elapsed()));
            if back {
                metrics.probe.record(begun.elapsed());
                condition.ready();
            } else {
                metrics.probes_lost.increment(1);
                condition.not_ready("messages published on Redis do not come back by the feed");
            }
        }
    }

    /// Whether a probe came back; waits for it.
    async fn probe(
        &self,
        bus: &Bus,
        subscriptions: &Subscriptions,
        (subscribed, number): (&mut bool, u64),
    ) -> bool {
        if !*subscribed {
            *subscribed = subscriptions.subscribe(std::slice::from_ref(&self.target)).await.is_ok();
        }
        let envelope = Envelope { copies_id: number, ..Envelope::default() }.to_bytes();
        let probe = Publication { target: self.target.clone(), envelope, reliable: false, message_id: None };
        let mut arrived = self.arrived.subscribe();
        let published = bus.publish(&[probe]).await;
        published.iter().all(Result::is_ok) && arrived.wait_for(|last| *last == number).await.is_ok()
    }
}
