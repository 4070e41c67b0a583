//! The messages of one request: split, planned, published in order, answered one by one. Nothing is retried here: the
//! producer is told and still has them.

use std::time::Instant;

use bytes::Bytes;
use herald_bus::{Bus, BusError};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use serde_json::value::RawValue;

use super::reply::{self, Failure, Result as Reply};
use crate::clock::now_us;
use crate::flow::Flow;
use crate::metrics::{Metrics, UNAVAILABLE};
use crate::outstanding::{Outcome, Outstanding};
use crate::plan::{Meta, Moment, Plan, Refusal, Rules};

/// Publications handed to the bus at once.
const BATCH_MAX: usize = 256;

/// The code of a volatile message that waited too long.
const SHED: &str = "shed";

/// Where messages go, and what counts them.
#[derive(Clone)]
pub(super) struct Ways {
    pub(super) bus: Bus,
    pub(super) flow: Flow,
    pub(super) metrics: Metrics,
}

/// What a request says beside its body.
#[derive(Debug, Default)]
pub(super) struct Properties {
    key: Option<String>,
    expiration: Option<String>,
    traceparent: Option<String>,
}

/// The messages of one request.
#[derive(Debug)]
pub(super) enum Request {
    One(Bytes),
    Many(Vec<Bytes>),
}

impl Properties {
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, Failure> {
        let read = |name: &str| match headers.get(name).map(|value| value.to_str()) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value.trim().to_owned())),
            Some(Err(_)) => {
                let what = format!("the header {name} holds something else than visible ASCII");
                Err(Failure::new(StatusCode::BAD_REQUEST, "invalid_header", what))
            }
        };
        Ok(Self {
            key: read("idempotency-key")?,
            expiration: read("herald-expiration-ms")?,
            traceparent: read("traceparent")?,
        })
    }

    fn meta<'a>(&'a self, message_id: Option<&'a str>) -> Meta<'a> {
        let (expiration, traceparent) = (self.expiration.as_deref(), self.traceparent.as_deref());
        Meta { message_id, expiration, sent: None, traceparent }
    }
}

impl Request {
    /// Splits a body.
    pub(super) fn read(body: Bytes, messages_max: usize) -> Result<Self, Failure> {
        let not_json = |error: serde_json::Error| {
            Failure::new(StatusCode::BAD_REQUEST, "not_json", format!("the body is not JSON: {error}"))
        };
        if body.trim_ascii_start().first() != Some(&b'[') {
            serde_json::from_slice::<&RawValue>(&body).map_err(not_json)?;
            return Ok(Self::One(body));
        }
        let parts: Vec<&RawValue> = serde_json::from_slice(&body).map_err(not_json)?;
        if parts.len() > messages_max {
            let what = format!("{} messages in one request; at most {messages_max} are allowed", parts.len());
            return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_messages", what));
        }
        Ok(Self::Many(parts.iter().map(|part| body.slice_ref(part.get().as_bytes())).collect()))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(messages) => messages.len(),
        }
    }

    /// Publishes them all and answers.
    pub(super) async fn publish(
        self,
        ways: &Ways,
        rules: &Rules,
        (properties, arrived_us): (&Properties, u64),
    ) -> Response<Full<Bytes>> {
        let _in_flight = InFlight::new(&ways.metrics, self.len());
        let plan = |body: &Bytes, meta: &Meta<'_>| ways.plan(body, meta, rules, arrived_us);
        let key = properties.key.as_deref();
        match self {
            Self::One(body) => {
                let planned = vec![plan(&body, &properties.meta(key))];
                let results = ways.settle(planned).await;
                results.first().map_or_else(|| reply::many(&[]), reply::one)
            }
            Self::Many(bodies) => {
                let planned = bodies.iter().enumerate().map(|(number, body)| {
                    let id = key.map(|key| format!("{key}/{number}"));
                    plan(body, &properties.meta(id.as_deref()))
                });
                let planned = planned.collect();
                reply::many(&ways.settle(planned).await)
            }
        }
    }
}

impl Ways {
    /// Errors are answers already.
    fn plan(&self, body: &Bytes, meta: &Meta<'_>, rules: &Rules, arrived_us: u64) -> Result<Plan, Reply> {
        let moment = Moment { now_us: now_us(), random: fastrand::u128(..) };
        let plan = Plan::new(body, meta, rules, moment).map_err(|refusal| {
            self.metrics.rejected(refusal.label());
            refused(&refusal)
        })?;
        self.metrics.planned(&plan);
        if self.flow.sheds(&plan.envelope, arrived_us, moment.now_us) {
            self.metrics.shed();
            let what = "messages must wait, and this one may be dropped: it is too late for it".to_owned();
            return Err(Reply::refused(StatusCode::SERVICE_UNAVAILABLE, SHED, what));
        }
        // one was taken at the entrance
        self.flow.spend(plan.targets.len() - 1);
        Ok(plan)
    }

    /// One result per plan, in order.
    async fn settle(&self, planned: Vec<Result<Plan, Reply>>) -> Vec<Reply> {
        let mut outstanding = Outstanding::default();
        let mut replies: Vec<(Option<String>, Option<Reply>)> = Vec::with_capacity(planned.len());
        for (number, planned) in planned.into_iter().enumerate() {
            match planned {
                Ok(plan) => {
                    replies.push((plan.dedup_id.as_deref().map(str::to_owned), None));
                    outstanding.push(number, plan);
                }
                Err(reply) => replies.push((None, Some(reply))),
            }
        }
        let error = self.publish_all(&mut outstanding, &mut replies).await;
        let finish = |(id, reply): (Option<String>, Option<Reply>)| {
            reply.unwrap_or_else(|| {
                self.metrics.rejected(UNAVAILABLE);
                unavailable(id, error.as_ref())
            })
        };
        replies.into_iter().map(finish).collect()
    }

    /// Fills in the replies of what is done; the first error, if there was one.
    async fn publish_all(
        &self,
        outstanding: &mut Outstanding<usize>,
        replies: &mut [(Option<String>, Option<Reply>)],
    ) -> Option<BusError> {
        let mut error: Option<BusError> = None;
        // where the bus is down, further batches would only wait for it too
        while !outstanding.is_holding() {
            let batch = outstanding.next_batch(BATCH_MAX, now_us());
            if batch.publications.is_empty() {
                break;
            }
            self.metrics.batch_size.record(batch.publications.len() as f64);
            let started = Instant::now();
            let answers = self.bus.publish(&batch.publications).await;
            self.flow.answered(started.elapsed());
            error = error.or_else(|| answers.iter().find_map(|answer| answer.as_ref().err()).cloned());
            let now_us = now_us();
            for settled in outstanding.answered(&batch, answers) {
                self.metrics.settled(&settled.plan, &settled.outcome, now_us);
                let Some((id, reply)) = replies.get_mut(settled.origin) else { continue };
                *reply = Some(match settled.outcome {
                    outcome @ (Outcome::Published | Outcome::Duplicate) => {
                        Reply::accepted(id.clone(), outcome == Outcome::Duplicate)
                    }
                    // volatile, and counted as unanswered
                    _ => unavailable(None, error.as_ref()),
                });
            }
        }
        error
    }
}

fn refused(refusal: &Refusal) -> Reply {
    let status = match refusal.label() {
        "too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    Reply::refused(status, refusal.label(), refusal.to_string())
}

fn unavailable(id: Option<String>, error: Option<&BusError>) -> Reply {
    let why = error.map(ToString::to_string).unwrap_or_default();
    Reply { id, ..Reply::refused(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, why) }
}

/// Counts messages in, and out again whatever happens.
struct InFlight<'a> {
    metrics: &'a Metrics,
    count: f64,
}

impl<'a> InFlight<'a> {
    fn new(metrics: &'a Metrics, count: usize) -> Self {
        metrics.http.consumed.increment(count as u64);
        metrics.http.in_flight.increment(count as f64);
        Self { metrics, count: count as f64 }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.metrics.http.in_flight.decrement(self.count);
    }
}
