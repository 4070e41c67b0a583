//! An edge holds clients: it accepts them, speaks their protocols, keeps who is in which channel and what each
//! connection still has to be sent. It keeps nothing that a client needs after it died.
//!
//! The way of a message: [`feed`] reads it from Redis → [`hub`] appends it to the outboxes of its connections and writes
//! them → a socket. The way of a client: [`http`] routes its request → [`transport`] speaks its protocol → [`client`]
//! carries out what it asks. [`catchup`] reads the logs for those who lag or resume.

mod catchup;
mod client;
mod config;
mod delivery;
mod feed;
mod frame;
mod http;
mod hub;
mod interest;
mod keeper;
mod metrics;
mod origin;
mod presence;
mod pressure;
mod serve;
mod session;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use herald_bus::{Bus, FeedLimits};
use herald_chassis::{BoxError, Context, Shutdown};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tonic::transport::Endpoint;

pub use config::{ClientConfig, Config};
pub use http::{Body, Elsewhere};

use crate::catchup::CatchUps;
use crate::client::Services;
use crate::feed::{FeedTask, Positions, Probe, Probing};
use crate::hub::{HeartbeatTimes, Hub, OutboxLimits, ShardConfig};
use crate::interest::Interest;
use crate::keeper::{Keeper, LastMarks, Mark};
use crate::metrics::{CatchUpMetrics, ClientMetrics, FeedMetrics, HubMetrics, PressureMetrics};
use crate::origin::Origins;
use crate::presence::{Identity, Presence};
use crate::pressure::{Gauges, Lateness, Pressure};
use crate::serve::Server;
use crate::session::SessionLimits;

/// What an edge is started with.
pub struct Parts {
    /// What clients may do.
    pub clients: ClientConfig,
    /// The registry, if there is one: an `http://` URL.
    pub registry_url: Option<String>,
    /// How the registry names this edge; its address, if it is not told.
    pub advertise: Option<String>,
    /// What brings the messages.
    pub bus: Bus,
    /// Where clients connect.
    pub listener: TcpListener,
    /// Answers requests to other paths than the edge's own.
    pub elsewhere: Option<Elsewhere>,
}

/// Starts an edge on `ctx`: its tasks run until the context's shutdown, drain, and end.
///
/// # Errors
/// When the registry's URL cannot be used.
pub fn start(parts: Parts, ctx: &Context) -> Result<(), BoxError> {
    let Parts { clients, registry_url, advertise, bus, listener, elsewhere } = parts;
    let identity = identity(advertise, &listener)?;
    // what serves clients outlives the soft stage: it ends when the last client is gone
    let inner = Shutdown::new();
    let metrics = ClientMetrics::new();
    let lateness = Lateness::new();
    let (hub, lagging) = start_hub((&clients, bus.has_one_clock()), &lateness, ctx, &inner);
    let origins = Origins::new(bus.clone());
    let positions = Positions::default();
    let keeper = Keeper::new(metrics.sessions.clone());
    let (subscriptions, feed) = bus.feed(FeedLimits::default());
    let gauges = Gauges {
        lateness: lateness.clone(),
        hub: hub.clone(),
        feed: feed.gauge(),
        metrics: PressureMetrics::new(),
    };
    let (told, pressure) = watch::channel(Pressure::default());
    spawn(ctx, "pressure", gauges.run(told, inner.clone()));
    start_feed(
        &FeedParts {
            bus: &bus,
            hub: &hub,
            origins: &origins,
            positions: &positions,
            keeper: &keeper,
            lateness: &lateness,
        },
        &identity,
        ctx,
        &inner,
        (subscriptions.clone(), feed),
    );

    let (interest, requests) = Interest::new();
    let watched = (positions.clone(), metrics.channels.clone());
    spawn(ctx, "interest", interest::run(requests, subscriptions, watched, inner.clone()));
    let catch_ups = CatchUps {
        bus: bus.clone(),
        hub: hub.clone(),
        origins: origins.clone(),
        page_bytes_max: clients.outbox_bytes,
        metrics: CatchUpMetrics::new(),
    };
    spawn(ctx, "catch-ups", catchup::run(catch_ups, lagging, inner.clone()));
    let retention = clients.session_retention;
    spawn(ctx, "keeper", keeper.clone().refresh(bus.clone(), retention, inner.clone()));
    spawn(ctx, "marks", keeper::save_regularly(hub.clone(), bus.clone(), retention, inner.clone()));
    let last_marks = start_last_marks((bus.clone(), retention), &metrics, ctx, &inner);
    let presence = Presence::new(metrics.claims.clone(), pressure);
    if let Some(url) = registry_url {
        let endpoint = Endpoint::from_shared(url)?;
        spawn(ctx, "presence", presence.clone().run(endpoint, (identity, hub.clone()), inner.clone()));
    }
    let limits = SessionLimits { groups_max: clients.max_groups, id_bytes_max: clients.max_id_bytes };
    let services = Arc::new(Services {
        hub,
        bus,
        interest,
        positions,
        presence,
        origins,
        keeper,
        last_marks,
        limits,
        retention,
        metrics,
    });
    let server = Server::new(clients, (services, elsewhere), ctx.clone(), inner);
    ctx.tasks.spawn("server", async move { server.run(listener).await });
    Ok(())
}

/// Who this edge is: new at every start, so that it inherits nothing from one that died at the same address.
fn identity(advertise: Option<String>, listener: &TcpListener) -> Result<Identity, BoxError> {
    let address = match advertise {
        Some(name) => name,
        None => listener.local_addr()?.to_string(),
    };
    Ok(Identity { edge_id: transport::secret_id()?, address })
}

fn start_hub(
    (config, one_clock): (&ClientConfig, bool),
    lateness: &Lateness,
    ctx: &Context,
    inner: &Shutdown,
) -> (Hub, mpsc::Receiver<catchup::Lagging>) {
    let (lagging, asking) = mpsc::channel(config.max_connections.max(1));
    let shard = ShardConfig {
        heartbeat: HeartbeatTimes { interval: config.ping_interval, timeout: config.ping_timeout },
        outbox: OutboxLimits { frames_max: config.outbox_frames, bytes_max: config.outbox_bytes },
        one_clock,
        lagging,
        metrics: HubMetrics::new(),
        lateness: lateness.clone(),
    };
    let (hub, queues) = Hub::new(config.shards());
    for queues in queues {
        let (shard, inner) = (shard.clone(), inner.clone());
        spawn(ctx, "hub shard", async move {
            tokio::select! {
                () = inner.hard() => {}
                () = hub::run(shard, queues) => {}
            }
        });
    }
    (hub, asking)
}

/// What connections that end hand in is saved before the edge is drained, unless somebody forces it.
fn start_last_marks(
    (bus, life): (Bus, Duration),
    metrics: &ClientMetrics,
    ctx: &Context,
    inner: &Shutdown,
) -> LastMarks {
    let (last_marks, handed_in) = LastMarks::new(metrics.marks_waited.clone());
    let save = move |marks: Vec<Mark>| {
        let bus = bus.clone();
        async move { bus.save_sent(&marks, life).await }
    };
    spawn(ctx, "last marks", handed_in.save_all(save, inner.clone(), ctx.shutdown.clone()));
    last_marks
}

struct FeedParts<'a> {
    bus: &'a Bus,
    hub: &'a Hub,
    origins: &'a Origins,
    positions: &'a Positions,
    lateness: &'a Lateness,
    keeper: &'a Keeper,
}

fn start_feed(
    parts: &FeedParts<'_>,
    identity: &Identity,
    ctx: &Context,
    inner: &Shutdown,
    (subscriptions, feed): (herald_bus::Subscriptions, herald_bus::Feed),
) {
    let metrics = FeedMetrics::new();
    let probe = Probe::new(&identity.edge_id);
    let task = FeedTask {
        bus: parts.bus.clone(),
        hub: parts.hub.clone(),
        origins: parts.origins.clone(),
        positions: parts.positions.clone(),
        probe: probe.clone(),
        keeper: parts.keeper.clone(),
        condition: ctx.readiness.condition("feed", "not subscribed on Redis yet"),
        metrics: metrics.clone(),
    };
    let stopping = inner.clone();
    ctx.tasks.spawn("feed", async move {
        let ended = task.run(feed, stopping.clone()).await;
        // at the end the hub may be the first to end
        if stopping.hard_token().is_cancelled() { Ok(()) } else { ended }
    });
    let probing = Probing {
        bus: parts.bus.clone(),
        subscriptions,
        positions: parts.positions.clone(),
        condition: ctx.readiness.condition("probe", "no message has come back by the feed yet"),
        metrics,
        lateness: parts.lateness.clone(),
    };
    spawn(ctx, "probe", probe.run(probing, inner.clone()));
}

fn spawn(ctx: &Context, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    ctx.tasks.spawn(name, async move {
        task.await;
        Ok::<(), BoxError>(())
    });
}
