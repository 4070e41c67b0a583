//! What a replica does of itself: it watches the edges, sweeps those whose lease ended, says whether the store answers,
//! and hears what other replicas tell.

use std::sync::Arc;
use std::time::Duration;

use herald_chassis::{Backoff, Condition};
use herald_wire::registry::Pressure;
use herald_wire::registry::registry_server::RegistryServer;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic_health::server::HealthReporter;

use crate::Replica;
use crate::bottleneck::worst;
use crate::event::Event;
use crate::grpc::Service;
use crate::store::{Edges, Events, StoreError};

/// How often edges are looked at when no heartbeat says something new.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The same while somebody watches pressure: heartbeats come to the other replicas too.
const LOOK_EVERY_WATCHED: Duration = Duration::from_millis(100);
/// However many heartbeats come, edges are not looked at more often.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// How often a replica shows itself that events arrive.
pub(crate) const PROBE_EVERY: Duration = Duration::from_secs(2);
/// Silence after which the connection for events counts as dead.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(7);

/// Tells everybody how the store is.
pub(crate) struct Health {
    pub(crate) condition: Condition,
    pub(crate) grpc: HealthReporter,
    pub(crate) pressure: watch::Sender<Option<Pressure>>,
}

impl Health {
    async fn serving(&self, worst: Pressure) {
        self.pressure.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&worst);
            *known = Some(worst);
            changed
        });
        self.grpc.set_serving::<RegistryServer<Service>>().await;
        self.grpc.set_service_status("", tonic_health::ServingStatus::Serving).await;
        self.condition.ready();
    }

    /// Besides the service itself, which hands the receiver to those who ask.
    fn is_watched(&self) -> bool {
        self.pressure.receiver_count() > 1
    }

    pub(crate) async fn not_serving(&self, reason: &str) {
        self.grpc.set_not_serving::<RegistryServer<Service>>().await;
        self.grpc.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        self.pressure.send_if_modified(|known| known.take().is_some());
        self.condition.not_ready(reason);
    }
}

/// Watches the edges until the process drains.
pub(crate) async fn keep(replica: Arc<Replica>, health: Health) -> Result<(), StoreError> {
    let mut backoff = Backoff::EAGER;
    let mut probed: Option<Instant> = None;
    while !replica.shutdown.is_draining() {
        match look(&replica, &mut probed).await {
            Ok(worst) => {
                backoff.reset();
                replica.metrics.pressure_lateness.set(worst.lateness_us as f64 / 1e6);
                replica.metrics.pressure_fullness.set(f64::from(worst.fullness_permille) / 1e3);
                health.serving(worst).await;
                let look_every = if health.is_watched() { LOOK_EVERY_WATCHED } else { LOOK_EVERY };
                tokio::select! {
                    () = replica.shutdown.soft() => {}
                    () = async { sleep(LOOK_PAUSE).await; replica.poke.notified().await } => {}
                    () = sleep(look_every) => {}
                }
            }
            Err(error) => {
                health.not_serving(&error.to_string()).await;
                let _ = backoff.wait(&replica.shutdown).await;
            }
        }
    }
    health.not_serving("draining").await;
    Ok(())
}

async fn look(replica: &Replica, probed: &mut Option<Instant>) -> Result<Pressure, StoreError> {
    let Edges { standing, lapsed } = replica.store.edges().await?;
    for edge_id in lapsed {
        if replica.store.sweep(&edge_id).await? {
            tracing::warn!(edge_id, "edge's lease ended: what it owned is free");
            replica.metrics.lease_expiries.increment(1);
        }
    }
    if probed.is_none_or(|probed| probed.elapsed() >= PROBE_EVERY) {
        replica.store.tell(&[Event::probe()]).await?;
        *probed = Some(Instant::now());
    }
    replica.metrics.edges.set(standing.len() as f64);
    Ok(worst(&standing))
}

/// Hears events until the process drains. Whenever some may have been lost, every edge here is audited.
pub(crate) async fn hear(replica: Arc<Replica>) -> Result<(), StoreError> {
    let mut backoff = Backoff::EAGER;
    while !replica.shutdown.is_draining() {
        match replica.store.listen().await {
            Ok(events) => {
                backoff.reset();
                replica.seats.audit_all();
                tokio::select! {
                    () = replica.shutdown.soft() => return Ok(()),
                    () = deliver(&replica, events) => tracing::warn!("events were lost; listening anew"),
                }
            }
            Err(error) => tracing::debug!(%error, "events cannot be heard"),
        }
        let _ = backoff.wait(&replica.shutdown).await;
    }
    Ok(())
}

/// Until events may have been lost.
async fn deliver(replica: &Replica, mut events: Events) {
    while let Ok(Some(event)) = timeout(SILENCE_MAX, events.next()).await {
        replica.metrics.events_received.increment(1);
        // of an edge that is attached elsewhere, that replica takes care
        let _ = replica.seats.deliver(event);
    }
}
