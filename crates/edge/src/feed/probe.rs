//! Sends a message to itself through Redis now and then: a feed that looks alive and brings nothing is the worst
//! failure a message centre can have, since everything else stays green. Each probe takes a look at some channels'
//! logs along: what they held before it was published must have come before it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use herald_bus::{Bus, BusError, Publication, Subscriptions};
use herald_chassis::{Condition, Shutdown};
use herald_wire::{Envelope, Target};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::Positions;
use super::quiet::{Expected, Rounds};
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
    /// What must have come before the probe of this number.
    expected: Arc<Mutex<Option<(u64, Expected)>>>,
}

/// What probing needs.
pub(crate) struct Probing {
    pub(crate) bus: Bus,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) positions: Positions,
    pub(crate) condition: Condition,
    pub(crate) metrics: FeedMetrics,
    pub(crate) lateness: Lateness,
}

impl Probe {
    pub(crate) fn new(edge_id: &str) -> Self {
        let arrived = Arc::new(watch::Sender::new(0));
        Self { target: herald_wire::names::probe(edge_id), arrived, expected: Arc::default() }
    }

    pub(super) fn is_for(&self, target: &Target) -> bool {
        *target == self.target
    }

    /// What the feed must have brought before this probe.
    pub(super) fn arrived(&self, envelope: &Bytes) -> Option<Expected> {
        let number = Envelope::read(envelope.clone()).ok()?.copies_id;
        self.arrived.send_replace(number);
        let (_, expected) = self.lock().take_if(|(of, _)| *of == number)?;
        Some(expected)
    }

    /// Probes until the edge stops; says not ready while probes do not come back.
    pub(crate) async fn run(self, probing: Probing, shutdown: Shutdown) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut subscribed, mut rounds) = (false, Rounds::default());
        for number in 1.. {
            tokio::select! {
                () = shutdown.hard() => return,
                _ = ticks.tick() => {}
            }
            let probe = self.probe(&probing, (&mut subscribed, &mut rounds), number);
            let back = tokio::select! {
                () = shutdown.hard() => return,
                back = timeout(PATIENCE, probe) => back.ok().and_then(Result::ok).flatten(),
            };
            let Probing { metrics, condition, lateness, .. } = &probing;
            lateness.probed(back);
            if let Some(took) = back {
                metrics.probe.record(took);
                condition.ready();
            } else {
                metrics.probes_lost.increment(1);
                condition.not_ready("messages published on Redis do not come back by the feed");
            }
        }
    }

    /// How long a probe took to come back; waits for it. `None`: it was not published.
    async fn probe(
        &self,
        probing: &Probing,
        (subscribed, rounds): (&mut bool, &mut Rounds),
        number: u64,
    ) -> Result<Option<Duration>, BusError> {
        let Probing { bus, subscriptions, lateness, .. } = probing;
        if !*subscribed {
            subscriptions.subscribe(std::slice::from_ref(&self.target)).await?;
            *subscribed = true;
        }
        let expected = Self::expect(probing, rounds).await?;
        *self.lock() = Some((number, expected));
        let envelope = Envelope { copies_id: number, ..Envelope::default() }.to_bytes();
        let probe = Publication { target: self.target.clone(), envelope, reliable: false, message_id: None };
        let mut arrived = self.arrived.subscribe();
        let begun = Instant::now();
        lateness.probing(begun);
        let published = bus.publish(&[probe]).await;
        let back =
            published.iter().all(Result::is_ok) && arrived.wait_for(|last| *last == number).await.is_ok();
        Ok(back.then(|| begun.elapsed()))
    }

    async fn expect(probing: &Probing, rounds: &mut Rounds) -> Result<Expected, BusError> {
        let epoch = probing.bus.epoch().await?;
        let targets = rounds.next(&probing.positions.lock());
        let tails = probing.bus.tails(&targets).await?;
        probing.metrics.checked.increment(targets.len() as u64);
        Ok(Expected { epoch, tails: targets.into_iter().zip(tails).collect() })
    }

    fn lock(&self) -> MutexGuard<'_, Option<(u64, Expected)>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
