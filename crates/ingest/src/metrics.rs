//! Every metric of ingest, as handles. Nothing else in this crate names one.
//!
//! The ledger: what was consumed is published, duplicate, shed, dead-lettered, rejected, unanswered, returned, or in
//! flight;
//! each message counts once. `expired` is one of the reasons of dead letters.
//!
//! | name | kind | labels | what it counts |
//! |---|---|---|---|
//! | `herald_ingest_consumed_total` | counter | `source` = `amqp`, `http` | messages taken in |
//! | `herald_ingest_published_total` | counter | `class` = `volatile`, `reliable` | messages published to at least one target |
//! | `herald_ingest_duplicates_total` | counter | | messages whose id had been published to all their targets |
//! | `herald_ingest_dead_lettered_total` | counter | `reason` ([`Refusal::label`]) | messages that the dead-letter queue confirmed |
//! | `herald_ingest_rejected_total` | counter | `reason` ([`Refusal::label`], `unavailable`) | messages refused over HTTP; `unavailable`: the bus did not take them |
//! | `herald_ingest_unanswered_total` | counter | | volatile messages given up because the bus' answer was lost |
//! | `herald_ingest_returned_total` | counter | | messages left to RabbitMQ, which delivers them again: the connection ended before they were published |
//! | `herald_ingest_in_flight_messages` | gauge | `source` | messages taken in and not done |
//! | `herald_ingest_shed_total` | counter | `reason` = `late` | volatile messages dropped because messages had to wait and these had waited too long |
//! | `herald_ingest_window_messages` | gauge | | how many messages may be on their way to the sockets, a message to several targets as often |
//! | `herald_ingest_pace_messages_per_second` | gauge | | what that comes to, with the lateness of now |
//! | `herald_ingest_lateness_tolerated_seconds` | gauge | | how late the worst edge may be before fewer messages pass: the target, or more while a slower pace was found not to help |
//! | `herald_ingest_window_cuts_total` | counter | `cause` ([`Cause::label`]) | times the window was made smaller |
//! | `herald_ingest_pressure` | gauge | `cause` | 1 while messages must wait for this, else 0 |
//! | `herald_ingest_pressure_lateness_seconds` | gauge | | how late the worst edge is, as the registry said last |
//! | `herald_ingest_pressure_fullness_ratio` | gauge | | how full its queues are, 0 to 1 |
//! | `herald_ingest_queue_waiting_messages` | gauge | | messages that wait in RabbitMQ, asked for while messages must wait, else 0 |
//! | `herald_ingest_redis_backlog_bytes` | gauge | | the largest output buffer of a feed that is read, on Redis |
//! | `herald_ingest_retries_total` | counter | | batches after which something had to be tried again |
//! | `herald_ingest_dead_letter_retries_total` | counter | | failures to hand dead letters over |
//! | `herald_ingest_reconnects_total` | counter | | connections to RabbitMQ that ended |
//! | `herald_ingest_batch_size` | histogram | | publications handed to the bus at once |
//! | `herald_ingest_broker_wait_seconds` | histogram | | from when the producer says it sent a message to when ingest had it |
//! | `herald_ingest_hold_seconds` | histogram | | from when ingest had a message to when it handed it to the bus |
//! | `herald_ingest_publish_seconds` | histogram | | from when ingest had a message to when the bus had answered for it |
//! | `herald_ingest_http_requests_total` | counter | `status` | requests answered, by HTTP status |

use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

use crate::flow::controller::{Cause, Readings, Stepped};
use crate::outstanding::Outcome;
use crate::plan::{Plan, Refusal};

const CONSUMED: &str = "herald_ingest_consumed_total";
const PUBLISHED: &str = "herald_ingest_published_total";
const DUPLICATES: &str = "herald_ingest_duplicates_total";
const DEAD_LETTERED: &str = "herald_ingest_dead_lettered_total";
const REJECTED: &str = "herald_ingest_rejected_total";
const UNANSWERED: &str = "herald_ingest_unanswered_total";
const RETURNED: &str = "herald_ingest_returned_total";
const IN_FLIGHT: &str = "herald_ingest_in_flight_messages";
const WINDOW: &str = "herald_ingest_window_messages";
const SHED: &str = "herald_ingest_shed_total";
const PACE: &str = "herald_ingest_pace_messages_per_second";
const TOLERATED: &str = "herald_ingest_lateness_tolerated_seconds";
const CUTS: &str = "herald_ingest_window_cuts_total";
const PRESSURE: &str = "herald_ingest_pressure";
const LATENESS: &str = "herald_ingest_pressure_lateness_seconds";
const FULLNESS: &str = "herald_ingest_pressure_fullness_ratio";
const BACKLOG: &str = "herald_ingest_redis_backlog_bytes";
const QUEUE_WAITING: &str = "herald_ingest_queue_waiting_messages";
const RETRIES: &str = "herald_ingest_retries_total";
const DEAD_LETTER_RETRIES: &str = "herald_ingest_dead_letter_retries_total";
const RECONNECTS: &str = "herald_ingest_reconnects_total";
const BATCH_SIZE: &str = "herald_ingest_batch_size";
const BROKER_WAIT: &str = "herald_ingest_broker_wait_seconds";
const HOLD: &str = "herald_ingest_hold_seconds";
const PUBLISH: &str = "herald_ingest_publish_seconds";
const HTTP_REQUESTS: &str = "herald_ingest_http_requests_total";

/// The label of messages over HTTP that the bus did not take.
pub(crate) const UNAVAILABLE: &str = "unavailable";

/// Handles; cloning shares them. Made after the recorder was installed.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) amqp: Source,
    pub(crate) http: Source,
    pub(crate) queue_waiting: Gauge,
    pub(crate) returned: Counter,
    pub(crate) retries: Counter,
    pub(crate) dead_letter_retries: Counter,
    pub(crate) reconnects: Counter,
    pub(crate) batch_size: Histogram,
    published_volatile: Counter,
    published_reliable: Counter,
    duplicates: Counter,
    unanswered: Counter,
    shed_late: Counter,
    broker_wait: Histogram,
    hold: Histogram,
    publish: Histogram,
}

/// One way in.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) consumed: Counter,
    pub(crate) in_flight: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        describe();
        let source = |name: &'static str| Source {
            consumed: counter!(CONSUMED, "source" => name),
            in_flight: gauge!(IN_FLIGHT, "source" => name),
        };
        Self {
            amqp: source("amqp"),
            http: source("http"),
            queue_waiting: gauge!(QUEUE_WAITING),
            returned: counter!(RETURNED),
            retries: counter!(RETRIES),
            dead_letter_retries: counter!(DEAD_LETTER_RETRIES),
            reconnects: counter!(RECONNECTS),
            batch_size: histogram!(BATCH_SIZE),
            published_volatile: counter!(PUBLISHED, "class" => "volatile"),
            published_reliable: counter!(PUBLISHED, "class" => "reliable"),
            duplicates: counter!(DUPLICATES),
            unanswered: counter!(UNANSWERED),
            shed_late: counter!(SHED, "reason" => "late"),
            broker_wait: histogram!(BROKER_WAIT),
            hold: histogram!(HOLD),
            publish: histogram!(PUBLISH),
        }
    }

    /// A message was understood.
    pub(crate) fn planned(&self, plan: &Plan) {
        let envelope = &plan.envelope;
        if envelope.sent_at_us != 0 {
            self.broker_wait.record(between(envelope.sent_at_us, envelope.received_at_us));
        }
    }

    /// A message is done at `now_us`; what expired is counted when it is dead-lettered.
    pub(crate) fn settled(&self, plan: &Plan, outcome: &Outcome, now_us: u64) {
        match outcome {
            Outcome::Published if plan.envelope.reliable => self.published_reliable.increment(1),
            Outcome::Published => self.published_volatile.increment(1),
            Outcome::Duplicate => self.duplicates.increment(1),
            Outcome::Unanswered => self.unanswered.increment(1),
            Outcome::Expired(_) => return,
        }
        let envelope = &plan.envelope;
        self.hold.record(between(envelope.received_at_us, envelope.published_at_us));
        self.publish.record(between(envelope.received_at_us, now_us));
    }

    /// A volatile message was dropped.
    pub(crate) fn shed(&self) {
        self.shed_late.increment(1);
    }

    pub(crate) fn dead_lettered(&self, refusal: &Refusal) {
        counter!(DEAD_LETTERED, "reason" => refusal.label()).increment(1);
    }

    pub(crate) fn rejected(&self, reason: &'static str) {
        counter!(REJECTED, "reason" => reason).increment(1);
    }

    pub(crate) fn http_answered(&self, status: http::StatusCode) {
        counter!(HTTP_REQUESTS, "status" => status.as_str().to_owned()).increment(1);
    }
}

/// Of flow control.
pub(crate) struct FlowMetrics {
    pub(crate) window: Gauge,
    pub(crate) pace: Gauge,
    pub(crate) tolerated: Gauge,
    lateness: Gauge,
    fullness: Gauge,
    backlog: Gauge,
    by_cause: [(Cause, Gauge, Counter); Cause::ALL.len()],
}

impl FlowMetrics {
    pub(crate) fn new() -> Self {
        describe();
        Self {
            window: gauge!(WINDOW),
            pace: gauge!(PACE),
            tolerated: gauge!(TOLERATED),
            lateness: gauge!(LATENESS),
            fullness: gauge!(FULLNESS),
            backlog: gauge!(BACKLOG),
            by_cause: Cause::ALL.map(|cause| {
                let label = cause.label();
                (cause, gauge!(PRESSURE, "cause" => label), counter!(CUTS, "cause" => label))
            }),
        }
    }

    /// What was read, what was done, and what messages wait for.
    pub(crate) fn stepped(&self, readings: &Readings, stepped: Stepped, pressed: Option<Cause>) {
        let edges = readings.edges.unwrap_or_default();
        self.lateness.set(edges.lateness.as_secs_f64());
        self.fullness.set(f64::from(edges.fullness_permille) / 1e3);
        self.backlog.set(readings.backlog_bytes as f64);
        for (cause, pressure, cuts) in &self.by_cause {
            pressure.set(f64::from(u8::from(pressed == Some(*cause))));
            cuts.increment(u64::from(stepped.cut && stepped.congested == Some(*cause)));
        }
    }
}

fn between(from_us: u64, until_us: u64) -> Duration {
    Duration::from_micros(until_us.saturating_sub(from_us))
}

fn describe() {
    use metrics::Unit::Seconds;
    describe_counter!(CONSUMED, "Messages taken in, by source");
    describe_counter!(PUBLISHED, "Messages published to at least one target, by class");
    describe_counter!(DUPLICATES, "Messages whose id had been published to all their targets");
    describe_counter!(DEAD_LETTERED, "Messages that the dead-letter queue confirmed, by reason");
    describe_counter!(REJECTED, "Messages refused over HTTP, by reason");
    describe_counter!(UNANSWERED, "Volatile messages given up because the bus' answer was lost");
    describe_counter!(RETURNED, "Messages left to RabbitMQ because the connection ended");
    describe_gauge!(IN_FLIGHT, "Messages taken in and not done, by source");
    describe_counter!(SHED, "Volatile messages dropped while messages had to wait, by reason");
    describe_gauge!(WINDOW, "How many messages may be on their way to the sockets");
    describe_gauge!(PACE, "How many messages a second the window comes to");
    describe_gauge!(TOLERATED, Seconds, "How late the worst edge may be");
    describe_counter!(CUTS, "Times the window was made smaller, by cause");
    describe_gauge!(PRESSURE, "1 while messages must wait, by cause");
    describe_gauge!(LATENESS, Seconds, "How late the worst edge is, as the registry said last");
    describe_gauge!(FULLNESS, "How full the worst edge's queues are, 0 to 1");
    describe_gauge!(QUEUE_WAITING, "Messages that wait in RabbitMQ, while messages must wait");
    describe_gauge!(BACKLOG, "The largest output buffer of a feed that is read, on Redis");
    describe_counter!(RETRIES, "Batches after which something had to be tried again");
    describe_counter!(DEAD_LETTER_RETRIES, "Failures to hand dead letters over");
    describe_counter!(RECONNECTS, "Connections to RabbitMQ that ended");
    describe_histogram!(BATCH_SIZE, "Publications handed to the bus at once");
    describe_histogram!(BROKER_WAIT, Seconds, "From sent by the producer to received");
    describe_histogram!(HOLD, Seconds, "From received to handed to the bus");
    describe_histogram!(PUBLISH, Seconds, "From received to answered by the bus");
    describe_counter!(HTTP_REQUESTS, "Requests answered, by HTTP status");
}
