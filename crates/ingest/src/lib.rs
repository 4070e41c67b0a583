//! Ingest: takes messages from RabbitMQ and over HTTP, decides what to do with each, hands it to the bus, and
//! acknowledges only what is done. The backlog stays in RabbitMQ.
//!
//! - `plan` decides (pure), `window` and `acks` count what is held (pure), `outstanding` keeps channels in order
//!   (pure);
//! - `source` speaks AMQP and HTTP, `sink` publishes in batches, `dead_letters` gets rid of what cannot be published;
//! - `pipeline` is the one task that joins them.
//!
//! What must not live here: what a client sees, who owns a socketId, how the bus stores anything.

pub mod acks;
mod clock;
mod dead_letters;
mod metrics;
pub mod outstanding;
mod pipeline;
pub mod plan;
pub mod settings;
mod sink;
pub mod source;
pub mod window;

use std::convert::Infallible;
use std::time::Duration;

use herald_bus::Bus;
use herald_chassis::{Condition, Context, Shutdown};
use tokio::net::TcpListener;

use metrics::Metrics;
use pipeline::{Parts, Pipeline, SinkParts};
use plan::Rules;
pub use settings::Settings;
pub use source::amqp::AmqpError;
pub use source::http::{HttpConfig, Intake};
pub use source::queue::AmqpConfig;

/// How often the bus is asked whether it is there, for `/readyz`.
const PING_EVERY: Duration = Duration::from_secs(2);

/// What ingest is run with.
#[derive(Clone, Debug)]
pub struct Config {
    /// What a message may be.
    pub rules: Rules,
    /// The HTTP source.
    pub http: HttpConfig,
    /// The AMQP source; without it, HTTP is the only one.
    pub amqp: Option<Amqp>,
}

/// The AMQP source and how it is drained.
#[derive(Clone, Debug)]
pub struct Amqp {
    /// Which queue.
    pub queue: AmqpConfig,
    /// How many messages may be unacknowledged.
    pub window: usize,
    /// The most publications handed to the bus at once.
    pub batch_max: usize,
}

/// Starts ingest on `ctx`: its tasks live until the process drains. `listener` is where `POST /publish` is served.
///
/// A queue that exists with other arguments ends the process with a non-zero code; everything else is tried again.
pub fn start(config: Config, bus: Bus, listener: TcpListener, ctx: &Context) {
    let Config { rules, http, amqp } = config;
    let ready = ctx.readiness.condition("bus", "no answer yet");
    ctx.tasks.spawn("ingest bus probe", probe(bus.clone(), ready.clone(), ctx.shutdown.clone()));
    if let Some(Amqp { queue, window, batch_max }) = amqp {
        let parts = Parts {
            config: queue,
            rules: rules.clone(),
            window,
            batch_max,
            sink: SinkParts { bus: bus.clone(), ready },
            ready: ctx.readiness.condition("amqp", "not connected yet"),
            shutdown: ctx.shutdown.clone(),
            metrics: Metrics::new(),
        };
        ctx.tasks.spawn("ingest amqp", Pipeline::new(parts).run());
    }
    let intake = Intake::new(http, rules, bus, ctx.tasks.clone());
    ctx.tasks.spawn("ingest http", source::http::serve(listener, intake, ctx.clone()));
}

/// Publishing tells too whether the bus is there, but only while there is something to publish.
async fn probe(bus: Bus, ready: Condition, shutdown: Shutdown) -> Result<(), Infallible> {
    let mut every = tokio::time::interval(PING_EVERY);
    loop {
        tokio::select! {
            biased;
            () = shutdown.soft() => return Ok(()),
            _ = every.tick() => {}
        }
        match bus.ping().await {
            Ok(()) => ready.ready(),
            Err(error) => ready.not_ready(&error.to_string()),
        }
    }
}
