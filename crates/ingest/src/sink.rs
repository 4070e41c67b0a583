//! Hands messages to the bus in batches: whatever is there when the bus is free, at once and never waiting for more.
//! One batch is in flight at a time, so what goes to one target stays in order; meanwhile others are planned, and the
//! next batch grows.
//!
//! What to send next and what an answer means is `outstanding`'s; the bus' time and the retries' are here.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use herald_bus::{Bus, BusError, Published};
use herald_chassis::{Backoff, Condition};
use tokio::time::{Instant, sleep_until};

use crate::clock::{now_ms, now_us};
use crate::flow::Flow;
use crate::metrics::Metrics;
use crate::outstanding::{Batch, Outstanding, Settled};
use crate::plan::Plan;

/// How often what waits is looked through for what has expired, while something fails.
const EXPIRE_EVERY: Duration = Duration::from_millis(250);

type Answers = Vec<Result<Published, BusError>>;
type InFlight = Pin<Box<dyn Future<Output = (Batch, Answers)> + Send>>;

/// Messages on their way to the bus. `T` is what a message came with.
pub(crate) struct Sink<T> {
    bus: Bus,
    ready: Condition,
    metrics: Metrics,
    flow: Flow,
    batch_max: usize,
    outstanding: Outstanding<T>,
    in_flight: Option<InFlight>,
    backoff: Backoff,
    /// Set while targets are held.
    retry_at: Option<Instant>,
}

impl<T> Sink<T> {
    pub(crate) fn new(
        (bus, ready): (Bus, Condition),
        metrics: Metrics,
        flow: Flow,
        batch_max: usize,
    ) -> Self {
        Self {
            bus,
            ready,
            metrics,
            flow,
            batch_max,
            outstanding: Outstanding::default(),
            in_flight: None,
            backoff: Backoff::EAGER,
            retry_at: None,
        }
    }

    /// Adds a message behind all others.
    pub(crate) fn push(&mut self, origin: T, plan: Plan) {
        self.outstanding.push(origin, plan);
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// Whether the bus failed, and nothing has succeeded since.
    pub(crate) fn is_failing(&self) -> bool {
        self.backoff.attempts() > 0
    }

    /// Publishes, until some messages are done. Waits for ever where there is nothing to do. Cancel safe.
    pub(crate) async fn settled(&mut self) -> Vec<Settled<T>> {
        loop {
            let settled = match &mut self.in_flight {
                Some(in_flight) => {
                    let (batch, answers) = in_flight.await;
                    self.in_flight = None;
                    self.answered(&batch, answers)
                }
                None => self.begin().await,
            };
            if !settled.is_empty() {
                return settled;
            }
        }
    }

    /// Waits for the batch that is with the bus, if any, then forgets the rest; answers what is done, and how many
    /// messages were forgotten.
    pub(crate) async fn abandon(&mut self) -> (Vec<Settled<T>>, usize) {
        let settled = match self.in_flight.take() {
            Some(in_flight) => {
                let (batch, answers) = in_flight.await;
                self.answered(&batch, answers)
            }
            None => Vec::new(),
        };
        self.retry_at = None;
        (settled, self.outstanding.clear())
    }

    /// Sends the next batch; where nothing may be sent now, waits for the retry.
    async fn begin(&mut self) -> Vec<Settled<T>> {
        if let Some(retry_at) = self.retry_at {
            let expired = self.outstanding.expire(now_ms());
            if !expired.is_empty() {
                return expired;
            }
            if Instant::now() >= retry_at {
                self.outstanding.release();
                self.retry_at = None;
            }
        }
        let batch = self.outstanding.next_batch(self.batch_max, now_us());
        if !batch.publications.is_empty() {
            self.metrics.batch_size.record(batch.publications.len() as f64);
            let (bus, flow) = (self.bus.clone(), self.flow.clone());
            self.in_flight = Some(Box::pin(async move {
                let started = Instant::now();
                let answers = bus.publish(&batch.publications).await;
                flow.answered(started.elapsed());
                (batch, answers)
            }));
            return Vec::new();
        }
        match self.retry_at {
            Some(retry_at) => sleep_until(retry_at.min(Instant::now() + EXPIRE_EVERY)).await,
            None => std::future::pending().await,
        }
        Vec::new()
    }

    fn answered(&mut self, batch: &Batch, answers: Answers) -> Vec<Settled<T>> {
        let error = answers.iter().find_map(|answer| answer.as_ref().err()).cloned();
        let settled = self.outstanding.answered(batch, answers);
        match error {
            Some(error) => {
                let delay = self.backoff.next(fastrand::f64());
                self.retry_at.get_or_insert(Instant::now() + delay);
                self.metrics.retries.increment(1);
                self.ready.not_ready(&error.to_string());
            }
            None => {
                self.backoff.reset();
                self.ready.ready();
            }
        }
        let now_us = now_us();
        if let Some(first) = settled.iter().map(|message| message.plan.envelope.received_at_us).min() {
            self.flow.published(Duration::from_micros(now_us.saturating_sub(first)));
        }
        for message in &settled {
            self.metrics.settled(&message.plan, &message.outcome, now_us);
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::TARGET_DEFAULT;
    use crate::outstanding::Outcome;
    use crate::plan::{Meta, Moment, Rules};
    use bytes::Bytes;
    use herald_bus::{LogConfig, RedisConfig};
    use herald_chassis::Readiness;
    use herald_wire::{Limits, Position, Target};

    fn plan(body: &'static str, expiration: Option<&str>) -> Plan {
        let rules = Rules { limits: Limits::DEFAULT, ttl_ms: 60_000 };
        let moment = Moment { now_us: now_us(), random: fastrand::u128(..) };
        Plan::new(
            &Bytes::from_static(body.as_bytes()),
            &Meta { expiration, ..Meta::default() },
            &rules,
            moment,
        )
        .unwrap()
    }

    const RELIABLE: &str = r#"{"socketSessionId":"a","isVolatile":false}"#;

    #[tokio::test]
    async fn what_is_there_goes_out_together_and_in_order() {
        let bus = Bus::memory(LogConfig::default());
        let ready = Readiness::new().condition("bus", "");
        let mut sink = Sink::new((bus.clone(), ready.clone()), Metrics::new(), Flow::new(TARGET_DEFAULT), 8);
        for number in 0..20 {
            sink.push(number, plan(RELIABLE, None));
        }
        let mut done = Vec::new();
        while !sink.is_empty() {
            let settled = sink.settled().await;
            assert!(settled.len() <= 8);
            done.extend(settled.into_iter().map(|s| (s.origin, s.outcome)));
        }
        assert_eq!(done, (0..20).map(|number| (number, Outcome::Published)).collect::<Vec<_>>());
        let log = bus.read_log(&Target::socket("a", 9).unwrap(), Position::ZERO, 99).await.unwrap();
        assert_eq!(log.len(), 20);
        assert!(ready.is_ready());
    }

    #[tokio::test]
    async fn while_the_bus_is_down_messages_wait_until_they_expire() {
        let mut config = RedisConfig::new("redis://127.0.0.1:1");
        config.response_timeout = Duration::from_millis(20);
        let ready = Readiness::new().condition("bus", "");
        let bus = Bus::redis(config).await.unwrap();
        let mut sink = Sink::new((bus, ready.clone()), Metrics::new(), Flow::new(TARGET_DEFAULT), 8);
        sink.push("short", plan(RELIABLE, Some("100")));
        sink.push("long", plan(RELIABLE, None));
        let settled = sink.settled().await;
        assert_eq!(settled.len(), 1);
        assert!(matches!(&settled[0], Settled { origin: "short", outcome: Outcome::Expired(_), .. }));
        assert!(sink.is_failing() && !ready.is_ready());
        let (settled, forgotten) = sink.abandon().await;
        assert!(settled.is_empty());
        assert_eq!(forgotten, 1);
    }
}
