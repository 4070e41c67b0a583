//! From RabbitMQ to the bus and back: takes deliveries while the window has room, plans them, hands them to the sink,
//! and acknowledges what is done. One task owns all of it, so there is nothing to lock and one order to think about.
//!
//! A connection that ends takes its generation with it: what was not published yet is forgotten here, because RabbitMQ
//! delivers it again.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use herald_chassis::{Backoff, Condition, Shutdown};
use tokio::time::{Instant, sleep_until};

use crate::acks::{Acks, Tag};
use crate::clock::now_us;
use crate::dead_letters::{DeadLetters, Delivered, LETTERS_MAX};
use crate::flow::Flow;
use crate::metrics::Metrics;
use crate::outstanding::{Outcome, Settled};
use crate::plan::{Moment, Plan, Rules};
use crate::sink::Sink;
use crate::source::amqp::{AmqpError, Delivery, Letter, Session};
use crate::source::queue::AmqpConfig;
use crate::window::Window;

/// A connection that lived this long was a good one: the next failure is the first again.
const GOOD_AFTER: Duration = Duration::from_secs(10);
/// After the broker sent what cannot be read, messages come one at a time for [`GOOD_AFTER`], so that RabbitMQ counts
/// failed deliveries of that one message alone, and dead-letters no other.
const CAREFUL_PREFETCH: u16 = 1;

/// How often RabbitMQ is asked how much waits there, while messages must wait.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Messages that wait, and consumers.
type Backlog = Option<(u32, u32)>;
type Asking = Pin<Box<dyn Future<Output = Backlog> + Send>>;
type Delivering = Pin<Box<dyn Future<Output = (DeadLetters, Delivered)> + Send>>;

/// What a message came with.
struct Origin {
    tag: Tag,
    delivery: Delivery,
}

/// Why a session is over.
enum Ended {
    Draining,
    /// It was a careful one, and all is well.
    Renew,
    Lost(AmqpError),
}

/// Everything between RabbitMQ and the bus.
pub(crate) struct Pipeline {
    config: Arc<AmqpConfig>,
    rules: Rules,
    ready: Condition,
    shutdown: Shutdown,
    metrics: Metrics,
    batch_max: usize,
    sink: Sink<Origin>,
    flow: Flow,
    /// What RabbitMQ hands over at most; the window may be smaller.
    prefetch: usize,
    window: Window,
    acks: Acks,
    /// Bounded by the window: each of them is unacknowledged.
    letters: VecDeque<(Tag, Letter)>,
    delivering: Option<Delivering>,
    idle: Option<DeadLetters>,
    asking: Option<Asking>,
    ask_at: Instant,
    /// Taken in and not done.
    in_flight: usize,
}

/// What a pipeline is made of.
pub(crate) struct Parts {
    pub(crate) config: AmqpConfig,
    pub(crate) rules: Rules,
    pub(crate) prefetch: usize,
    pub(crate) batch_max: usize,
    pub(crate) sink: SinkParts,
    pub(crate) flow: Flow,
    pub(crate) ready: Condition,
    pub(crate) shutdown: Shutdown,
    pub(crate) metrics: Metrics,
}

/// What its sink is made of.
pub(crate) struct SinkParts {
    pub(crate) bus: herald_bus::Bus,
    pub(crate) ready: Condition,
}

impl Pipeline {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { config, rules, prefetch, batch_max, sink, flow, ready, shutdown, metrics } = parts;
        Self {
            config: Arc::new(config),
            rules,
            ready,
            shutdown,
            batch_max,
            sink: Sink::new((sink.bus, sink.ready), metrics.clone(), flow.clone(), batch_max),
            flow,
            metrics,
            prefetch,
            window: Window::new(prefetch),
            acks: Acks::new(),
            letters: VecDeque::new(),
            delivering: None,
            idle: None,
            asking: None,
            ask_at: Instant::now(),
            in_flight: 0,
        }
    }

    /// Works until the process drains.
    ///
    /// # Errors
    /// What no retry can mend: see [`AmqpError::is_fatal`].
    pub(crate) async fn run(mut self) -> Result<(), AmqpError> {
        let mut backoff = Backoff::EAGER;
        let mut careful = false;
        while let Some(mut session) = self.connect(&mut backoff, careful).await? {
            let since = Instant::now();
            let ended = self.serve(&mut session, careful.then_some(since + GOOD_AFTER)).await;
            if since.elapsed() >= GOOD_AFTER {
                backoff.reset();
            }
            match ended {
                Ended::Draining => {
                    self.finish(session).await;
                    return Ok(());
                }
                Ended::Renew => {
                    careful = false;
                    self.finish(session).await;
                }
                Ended::Lost(error) => {
                    careful = matches!(error, AmqpError::Unreadable { .. });
                    self.ready.not_ready(&error.to_string());
                    self.metrics.reconnects.increment(1);
                    drop(session);
                    if !backoff.wait(&self.shutdown).await {
                        return Ok(());
                    }
                }
            }
            self.restart().await;
        }
        Ok(())
    }

    /// `None` when the process drains.
    async fn connect(&mut self, backoff: &mut Backoff, careful: bool) -> Result<Option<Session>, AmqpError> {
        let shutdown = self.shutdown.clone();
        let prefetch =
            if careful { CAREFUL_PREFETCH } else { u16::try_from(self.prefetch).unwrap_or(u16::MAX) };
        loop {
            let opened = tokio::select! {
                biased;
                () = shutdown.soft() => return Ok(None),
                opened = Session::open(&self.config, prefetch) => opened,
            };
            match opened {
                Ok(session) => {
                    self.ready.ready();
                    return Ok(Some(session));
                }
                Err(error) if error.is_fatal() => return Err(error),
                Err(error) => self.ready.not_ready(&error.to_string()),
            }
            if !backoff.wait(&shutdown).await {
                return Ok(None);
            }
        }
    }

    /// Serves one session. In order of precedence: the end, what the bus answered, dead letters that are confirmed,
    /// new deliveries, for which there must be room: unacknowledged ones, and what the pace allows. The sink comes before the deliveries so that what was taken goes out at once; it cannot starve
    /// them, because a batch takes at least a round trip.
    async fn serve(&mut self, session: &mut Session, renew_at: Option<Instant>) -> Ended {
        let shutdown = self.shutdown.clone();
        loop {
            self.window.resize(self.prefetch.min(self.flow.window()));
            let allowed = self.flow.room();
            self.ask(session);
            let room = self.window.room().min(self.batch_max).min(allowed);
            tokio::select! {
                biased;
                () = shutdown.soft() => return Ended::Draining,
                () = at(renew_at) => return Ended::Renew,
                settled = self.sink.settled() => self.settle(settled),
                delivered = delivered(&mut self.delivering) => self.delivered(delivered),
                deliveries = session.next(room) => match deliveries {
                    Ok(deliveries) => self.take(deliveries),
                    Err(error) => return Ended::Lost(error),
                },
                backlog = answered(&mut self.asking) => self.note_backlog(backlog),
                () = self.flow.has_room(), if allowed == 0 => {
                    // nobody was kept waiting where nothing came
                    if session.is_waiting() {
                        self.flow.hold_back();
                    }
                }
            }
            self.deliver_letters();
            if let Err(error) = self.acknowledge(session).await {
                return Ended::Lost(error);
            }
        }
    }

    /// Takes no more, finishes what was taken, and closes. What cannot be finished goes back to the queue.
    async fn finish(&mut self, session: Session) {
        session.cancel().await;
        let shutdown = self.shutdown.clone();
        while self.in_flight > 0 && !self.sink.is_failing() {
            tokio::select! {
                biased;
                () = shutdown.hard() => break,
                settled = self.sink.settled() => self.settle(settled),
                (dead_letters, Delivered { done, left }) = delivered(&mut self.delivering) => {
                    let gave_up = !left.is_empty();
                    self.delivered((dead_letters, Delivered { done, left }));
                    if gave_up {
                        break;
                    }
                }
            }
            self.deliver_letters();
            if self.acknowledge(&session).await.is_err() {
                break;
            }
        }
        tokio::select! {
            biased;
            () = shutdown.hard() => {}
            (settled, _) = self.sink.abandon() => self.settle(settled),
        }
        // the connection may be gone; then they come again
        let _ = self.acknowledge(&session).await;
        session.close().await;
        self.give_back();
    }

    /// Ends a generation: nothing of it may be acknowledged any more.
    async fn restart(&mut self) {
        let (settled, _) = self.sink.abandon().await;
        self.settle(settled);
        self.give_back();
        self.acks.restart();
        self.window.clear();
        self.asking = None;
    }

    /// What is still in flight is RabbitMQ's again.
    fn give_back(&mut self) {
        self.letters.clear();
        self.delivering = None;
        self.metrics.returned.increment(self.in_flight as u64);
        self.in_flight = 0;
        self.metrics.amqp.in_flight.set(0.0);
    }

    /// Asks how much waits, where that is worth knowing.
    fn ask(&mut self, session: &Session) {
        let now = Instant::now();
        if !self.flow.is_pressed() {
            self.metrics.queue_waiting.set(0.0);
        } else if self.asking.is_none() && now >= self.ask_at {
            self.ask_at = now + ASK_EVERY;
            self.asking = Some(Box::pin(session.backlog()));
        }
    }

    fn note_backlog(&mut self, backlog: Backlog) {
        let Some((messages, consumers)) = backlog else { return };
        self.metrics.queue_waiting.set(f64::from(messages));
        self.flow.note_backlog(f64::from(messages) / f64::from(consumers.max(1)));
    }

    fn take(&mut self, deliveries: Vec<Delivery>) {
        self.window.take(deliveries.len());
        self.in_flight += deliveries.len();
        self.metrics.amqp.consumed.increment(deliveries.len() as u64);
        let now_us = now_us();
        for delivery in deliveries {
            let tag = self.acks.delivered(delivery.number);
            let moment = Moment { now_us, random: fastrand::u128(..) };
            match Plan::new(&delivery.body, &delivery.properties.meta(), &self.rules, moment) {
                Ok(plan) => {
                    self.metrics.planned(&plan);
                    // how long it was in the queue is guessed where its producer does not say when it was sent
                    let seen_us = now_us.saturating_sub(self.flow.queued_us());
                    if self.flow.sheds(&plan.envelope, seen_us, now_us) {
                        self.metrics.shed();
                        self.done(tag);
                        continue;
                    }
                    self.flow.spend(plan.targets.len());
                    self.sink.push(Origin { tag, delivery }, plan);
                }
                Err(refusal) => {
                    let Delivery { body, properties, .. } = delivery;
                    self.letters.push_back((tag, Letter { body, properties, refusal }));
                }
            }
        }
    }

    fn settle(&mut self, settled: Vec<Settled<Origin>>) {
        for Settled { origin: Origin { tag, delivery }, outcome, .. } in settled {
            if let Outcome::Expired(refusal) = outcome {
                let Delivery { body, properties, .. } = delivery;
                self.letters.push_back((tag, Letter { body, properties, refusal }));
            } else {
                self.done(tag);
            }
        }
    }

    fn delivered(&mut self, (dead_letters, Delivered { done, .. }): (DeadLetters, Delivered)) {
        self.idle = Some(dead_letters);
        for tag in done {
            self.done(tag);
        }
    }

    fn done(&mut self, tag: Tag) {
        self.acks.settle(tag);
        self.in_flight -= 1;
    }

    fn deliver_letters(&mut self) {
        if self.delivering.is_some() || self.letters.is_empty() {
            return;
        }
        let letters = self.letters.drain(..self.letters.len().min(LETTERS_MAX)).collect();
        let new = || DeadLetters::new(self.config.clone(), self.metrics.clone(), self.shutdown.clone());
        let dead_letters = self.idle.take().unwrap_or_else(new);
        self.delivering = Some(Box::pin(dead_letters.deliver(letters)));
    }

    async fn acknowledge(&mut self, session: &Session) -> Result<(), AmqpError> {
        self.metrics.amqp.in_flight.set(self.in_flight as f64);
        if let Some(ack) = self.acks.due() {
            session.ack(ack.number).await?;
            self.window.release(ack.count);
        }
        Ok(())
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

async fn answered(asking: &mut Option<Asking>) -> Backlog {
    match asking {
        Some(future) => {
            let backlog = future.await;
            *asking = None;
            backlog
        }
        None => std::future::pending().await,
    }
}

async fn delivered(delivering: &mut Option<Delivering>) -> (DeadLetters, Delivered) {
    match delivering {
        Some(future) => {
            let delivered = future.await;
            *delivering = None;
            delivered
        }
        None => std::future::pending().await,
    }
}
