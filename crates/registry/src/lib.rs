//! The registry: which edge owns each socketId, and how the edges are. It is not on the delivery path: while it is down
//! connected clients go on receiving, and claims are made good when it is back.
//!
//! # How evictions survive
//!
//! The one thing that must not get lost here is the word to an edge that another took its socketId. It goes to the
//! loser's stream, or by Redis pub/sub to the replica that has this stream, and pub/sub loses things. So what an edge
//! claims stays on record (beside its lease) until the edge released it or the Evict is on its stream; an **audit**
//! compares that record with the owners and tells what was not told. It runs every three leases, whenever this
//! replica's connection for events had to be made anew (a probe every two seconds shows that it lives), and when an
//! inbox overflowed. A stream that breaks with an Evict in it loses nothing either: the edge attaches again, says what
//! it holds, and that is ruled on again. This was chosen over a list of pending evictions acknowledged by the edge:
//! there is no second record to keep right, and it also repairs owners that a failover of Redis lost.
//!
//! The metrics are listed in `metrics.rs`.

mod bottleneck;
mod check;
pub mod config;
pub mod directory;
mod down;
pub mod event;
mod grpc;
mod keeper;
mod metrics;
mod seats;
mod stay;
pub mod store;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use herald_chassis::{Condition, Context, Shutdown, Tasks};
use herald_wire::registry::registry_server::RegistryServer;
use herald_wire::{FILE_DESCRIPTOR_SET, Limits};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

pub use config::Config;
use event::Event;
use grpc::Service;
use keeper::Health;
use metrics::Metrics;
use seats::Seats;
pub use store::memory::MemoryStore;
pub use store::redis::RedisStore;
pub use store::{Store, StoreError};

/// The largest gRPC message that comes in: 1,000 claims of the longest socketIds allowed.
const MESSAGE_BYTES_MAX: usize = 5 << 20;
/// Streams and calls under way on one gRPC connection.
const CALLS_MAX: u32 = 1_024;
const KEEPALIVE: Duration = Duration::from_secs(10);

/// How the service behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long an edge's word stands without a heartbeat; the store must have the same.
    pub lease: Duration,
    /// The longest socketId.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self { lease: Duration::from_secs(10), limits: Limits::DEFAULT }
    }
}

/// The service ended by an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The descriptors that reflection serves cannot be read.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server failed.
    #[error("gRPC server: {0}")]
    Server(#[from] tonic::transport::Error),
}

/// What the parts of one replica share.
pub(crate) struct Replica {
    store: Store,
    options: Options,
    seats: Seats,
    metrics: Metrics,
    shutdown: Shutdown,
    tasks: Tasks,
    // a heartbeat said something new
    poke: Notify,
}

impl Replica {
    /// Hands events to their edges, wherever these are attached. What gets lost, an audit makes good.
    async fn spread(&self, events: impl Iterator<Item = Event>) {
        let elsewhere: Vec<Event> = events.filter_map(|event| self.seats.deliver(event)).collect();
        if elsewhere.is_empty() {
            return;
        }
        self.metrics.events_sent.increment(elsewhere.len() as u64);
        if let Err(error) = self.store.tell(&elsewhere).await {
            tracing::warn!(%error, count = elsewhere.len(), "evictions not told now; an audit will");
        }
    }

    /// The same for what no audit makes good.
    async fn ask_to_close(&self, event: Event) -> Result<(), StoreError> {
        self.metrics.disconnects.increment(1);
        match self.seats.deliver(event) {
            None => Ok(()),
            Some(event) => {
                self.metrics.events_sent.increment(1);
                self.store.tell(&[event]).await
            }
        }
    }
}

/// Serves until the process drains. The store need not answer yet: the service says so, and begins when it does.
/// Its readiness condition is registered at the call, not at the first poll, so that a process is never ready too soon.
///
/// # Errors
/// When the server cannot be set up, or fails as a whole.
pub fn run(
    store: Store,
    options: Options,
    listener: TcpListener,
    ctx: Context,
) -> impl Future<Output = Result<(), RunError>> + Send + 'static {
    let condition = ctx.readiness.condition("registry-store", "not asked yet");
    let metrics = Metrics::new();
    let replica = Arc::new(Replica {
        store,
        options,
        seats: Seats::new(metrics.clone()),
        metrics,
        shutdown: ctx.shutdown,
        tasks: ctx.tasks,
        poke: Notify::new(),
    });
    serve(replica, listener, condition)
}

async fn serve(replica: Arc<Replica>, listener: TcpListener, condition: Condition) -> Result<(), RunError> {
    let shutdown = replica.shutdown.clone();
    let (pressure, pressures) = watch::channel(None);
    let (grpc, health_service) = tonic_health::server::health_reporter();
    let health = Health { condition, grpc, pressure };
    health.not_serving("not asked yet").await;
    replica.tasks.spawn("registry-keeper", keeper::keep(replica.clone(), health));
    replica.tasks.spawn("registry-events", keeper::hear(replica.clone()));
    let service =
        RegistryServer::new(Service::new(replica, pressures)).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let served = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(CALLS_MAX)
        .add_service(service)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            shutdown.soft_token().clone().cancelled_owned(),
        );
    tokio::select! {
        served = served => Ok(served?),
        () = shutdown.hard() => Ok(()),
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
