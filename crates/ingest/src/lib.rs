//! Ingest: takes messages from RabbitMQ and over HTTP, decides what to do with each, hands it to the bus, and
//! acknowledges only what is done. The backlog stays in RabbitMQ.
//!
//! - `plan` decides (pure), `window` and `acks` count what is held (pure), `outstanding` keeps channels in order
//!   (pure);
//! - `flow` says how many may go out, by how the way behind is;
//! - `source` speaks AMQP and HTTP, `sink` publishes in batches, `dead_letters` gets rid of what cannot be published;
//! - `pipeline` is the one task that joins them.
//!
//! What must not live here: what a client sees, who owns a socketId, how the bus stores anything.

pub mod acks;
mod clock;
mod dead_letters;
pub mod flow;
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
use herald_chassis::{BoxError, Condition, Context, Shutdown};
use tokio::net::TcpListener;

pub use flow::{Flow, FlowConfig};
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
    /// Flow control.
    pub flow: FlowConfig,
}

/// The AMQP source and how it is drained.
#[derive(Clone, Debug)]
pub struct Amqp {
    /// Which queue.
    pub queue: AmqpConfig,
    /// How many messages RabbitMQ may hand over before the first is acknowledged: what waits here at most.
    pub prefetch: usize,
    /// The most publications handed to the bus at once.
    pub batch_max: usize,
}

/// Starts ingest on `ctx`: its tasks live until the process drains. `listener` is where `POST /publish` is served.
///
/// A queue that exists with other arguments ends the process with a non-zero code; everything else is tried again.
///
/// # Errors
/// When the registry's URL cannot be used.
pub fn start(config: Config, bus: Bus, listener: TcpListener, ctx: &Context) -> Result<(), BoxError> {
    let Config { rules, http, amqp, flow } = config;
    let flow = Flow::start(&flow, &bus, ctx)?;
    let ready = ctx.readiness.condition("bus", "no answer yet");
    ctx.tasks.spawn("ingest bus probe", probe(bus.clone(), ready.clone(), ctx.shutdown.clone()));
    if let Some(Amqp { queue, prefetch, batch_max }) = amqp {
        let parts = Parts {
            config: queue,
            rules: rules.clone(),
            prefetch,
            batch_max,
            sink: SinkParts { bus: bus.clone(), ready },
            flow: flow.clone(),
            ready: ctx.readiness.condition("amqp", "not connected yet"),
            shutdown: ctx.shutdown.clone(),
            metrics: Metrics::new(),
        };
        ctx.tasks.spawn("ingest amqp", Pipeline::new(parts).run());
    }
    let intake = Intake::new(http, rules, (bus, flow), ctx.tasks.clone());
    ctx.tasks.spawn("ingest http", source::http::serve(listener, intake, ctx.clone()));
    Ok(())
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
