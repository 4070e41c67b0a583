//! Flow control: overload stays in RabbitMQ. What is known of the way behind ingest moves the window; the window is
//! spread over time; and while messages must wait, volatile ones that waited too long are shed.
//!
//! `controller` and `pacer` decide, `backlog`, `shed` and `words` help them (all pure); `watch` and `sample` bring what
//! they are told; [`Flow`] is what the sources share. Messages and their order are not known here.

pub(crate) mod backlog;
pub mod controller;
pub mod pacer;
mod run;
mod sample;
mod shed;
#[cfg(test)]
mod tests;
mod watch;
mod words;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use herald_bus::Bus;
use herald_chassis::{Context, SecretUrl};
use herald_wire::Envelope;
use tokio::sync::{Notify, watch as latest};
use tokio::time::sleep;
use tonic::transport::Endpoint;

use controller::{Cause, Controller, Edges, Readings, Stepped, Usage};
use pacer::Pacer;

use crate::metrics::FlowMetrics;

/// How late the worst edge may be unless a deployment says otherwise.
pub const TARGET_DEFAULT: Duration = Duration::from_millis(200);

/// What flow control goes by.
#[derive(Clone, Debug)]
pub struct FlowConfig {
    /// How late the worst edge may be before fewer messages pass.
    pub target: Duration,
    /// Who says how the edges are; without it, only Redis itself is heeded.
    pub registry_url: Option<SecretUrl>,
}

impl Default for FlowConfig {
    fn default() -> Self {
        Self { target: TARGET_DEFAULT, registry_url: None }
    }
}

/// What the registry said last.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Heard {
    pub(crate) edges: Edges,
    /// Its sentence on what keeps the worst edge.
    pub(crate) bottleneck: String,
}

/// How many messages may go out, shared by all sources. Cloning is a reference count.
#[derive(Clone, Debug)]
pub struct Flow(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    pressed: AtomicBool,
    /// How long what comes from the queue now waited there, about.
    queued_us: AtomicU64,
    /// The pace changed.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    controller: Controller,
    pacer: Pacer,
    usage: Usage,
    redis_latency: Duration,
    stay: Duration,
}

impl Flow {
    /// Starts flow control on `ctx`; its tasks live until the process drains.
    ///
    /// # Errors
    /// When the registry's URL cannot be used.
    pub fn start(config: &FlowConfig, bus: &Bus, ctx: &Context) -> Result<Self, tonic::transport::Error> {
        let flow = Self::new(config.target);
        let (says, heard) = latest::channel(config.registry_url.is_none().then(Heard::default));
        let (measures, backlog) = latest::channel(0);
        if let Some(url) = &config.registry_url {
            let endpoint = Endpoint::from_shared(url.expose().to_owned())?;
            ctx.tasks.spawn("ingest pressure watch", watch::run(endpoint, says, ctx.shutdown.clone()));
        }
        ctx.tasks.spawn("ingest redis sampler", sample::run(bus.clone(), measures, ctx.shutdown.clone()));
        let loop_ = run::Loop {
            flow: flow.clone(),
            heard,
            backlog,
            readiness: ctx.readiness.clone(),
            metrics: FlowMetrics::new(),
        };
        ctx.tasks.spawn("ingest flow", loop_.run(ctx.shutdown.clone()));
        Ok(flow)
    }

    pub(crate) fn new(target: Duration) -> Self {
        let controller = Controller::new(target);
        let pacer = Pacer::new(now(), controller.pace(), controller.burst());
        let state = State {
            controller,
            pacer,
            usage: Usage::default(),
            redis_latency: Duration::ZERO,
            stay: Duration::ZERO,
        };
        Self(Arc::new(Inner {
            state: Mutex::new(state),
            pressed: AtomicBool::new(false),
            queued_us: AtomicU64::new(0),
            changed: Notify::new(),
        }))
    }

    /// How many publications may go out now.
    pub(crate) fn room(&self) -> usize {
        self.lock().pacer.room(now())
    }

    /// How many messages may be on their way, for who counts those that are unacknowledged.
    pub(crate) fn window(&self) -> usize {
        self.lock().controller.window() as usize
    }

    /// So many publications go out.
    pub(crate) fn spend(&self, publications: usize) {
        let mut state = self.lock();
        state.pacer.spend(publications);
        state.usage.spent += publications as f64;
    }

    /// There was something to publish, and no room.
    pub(crate) fn hold_back(&self) {
        self.lock().usage.held_back = true;
    }

    /// Waits for room. Cancel safe.
    pub(crate) async fn has_room(&self) {
        loop {
            let changed = self.0.changed.notified();
            let wait = {
                let mut state = self.lock();
                let at = now();
                if state.pacer.room(at) > 0 {
                    return;
                }
                state.pacer.wait(at)
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = changed => {}
            }
        }
    }

    /// Waits for room and takes it for so many publications, which pass together. Cancel safe.
    pub(crate) async fn admit(&self, publications: usize) {
        while !self.try_admit(publications) {
            self.has_room().await;
        }
    }

    fn try_admit(&self, publications: usize) -> bool {
        let mut state = self.lock();
        let admitted = state.pacer.room(now()) > 0;
        if admitted {
            state.pacer.spend(publications);
            state.usage.spent += publications as f64;
        } else {
            state.usage.held_back = true;
        }
        admitted
    }

    /// Redis answered for a batch.
    pub(crate) fn answered(&self, took: Duration) {
        let mut state = self.lock();
        state.redis_latency = state.redis_latency.max(took);
    }

    /// A message that was received so long ago is published.
    pub(crate) fn published(&self, after: Duration) {
        let mut state = self.lock();
        state.stay = state.stay.max(after);
    }

    /// So many messages wait in the queue for this replica: at the pace at which it takes them, that is how long.
    pub(crate) fn note_backlog(&self, messages: f64) {
        let used = self.lock().controller.used().max(1.0);
        self.0.queued_us.store((messages / used * 1e6) as u64, Ordering::Relaxed);
    }

    /// How long what comes from the queue now waited there, about; not known to have waited while nothing must wait.
    pub(crate) fn queued_us(&self) -> u64 {
        if self.is_pressed() { self.0.queued_us.load(Ordering::Relaxed) } else { 0 }
    }

    /// Whether a message that was first seen at `seen_at_us` is shed: it may be dropped, messages must wait, and it has
    /// waited too long already.
    pub(crate) fn sheds(&self, envelope: &Envelope, seen_at_us: u64, now_us: u64) -> bool {
        self.is_pressed() && shed::is_too_old(envelope, seen_at_us, now_us)
    }

    /// Whether messages must wait.
    pub(crate) fn is_pressed(&self) -> bool {
        self.0.pressed.load(Ordering::Relaxed)
    }

    /// As if messages had to wait, until the next step.
    #[cfg(test)]
    pub(crate) fn press(&self) {
        self.0.pressed.store(true, Ordering::Relaxed);
    }

    /// One step of the controller.
    fn step(&self, heard: Option<&Heard>, backlog_bytes: u64) -> Step {
        let mut state = self.lock();
        let readings = Readings {
            edges: heard.map(|heard| heard.edges),
            redis_latency: std::mem::take(&mut state.redis_latency),
            stay: std::mem::take(&mut state.stay),
            backlog_bytes,
        };
        let usage = std::mem::take(&mut state.usage);
        let at = now();
        let stepped = state.controller.step(at, &readings, usage);
        let (pace, burst) = (state.controller.pace(), state.controller.burst());
        state.pacer.set(at, pace, burst);
        let (window, pressed) = (state.controller.window(), state.controller.pressed());
        let tolerated = state.controller.tolerated();
        drop(state);
        if self.0.pressed.swap(pressed.is_some(), Ordering::Relaxed) && pressed.is_none() {
            // of another backlog, should there be one again
            self.0.queued_us.store(0, Ordering::Relaxed);
        }
        self.0.changed.notify_waiters();
        Step { readings, stepped, window, pace, tolerated, pressed }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The runtime's clock, which a test may pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What came of a step.
#[derive(Clone, Debug)]
struct Step {
    readings: Readings,
    stepped: Stepped,
    window: f64,
    pace: f64,
    tolerated: Duration,
    pressed: Option<Cause>,
}
