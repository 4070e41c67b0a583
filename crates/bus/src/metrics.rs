//! Every metric of the bus, as handles. Nothing else in this crate names one.
//!
//! | name | kind | labels | what it counts |
//! |---|---|---|---|
//! | `herald_bus_publications_total` | counter | `outcome` = `logged`, `sent`, `duplicate`, `failed` | answers to publications |
//! | `herald_bus_publish_seconds` | histogram | | time of one batch from call to last answer |
//! | `herald_bus_errors_total` | counter | `kind` ([`BusError::metric_label`]) | calls, or publications of a batch, that failed |
//! | `herald_bus_feed_messages_total` | counter | | messages that came in on feeds |
//! | `herald_bus_feed_dropped_total` | counter | | of those, dropped because the reader was too slow |
//! | `herald_bus_feed_waiting_messages` | gauge | | messages waiting when the reader last looked |
//! | `herald_bus_feed_interruptions_total` | counter | `reason` ([`Interruption::metric_label`]) | holes in feeds; `reconnected` counts reconnects |
//! | `herald_bus_feed_connect_failures_total` | counter | | attempts to bring a feed (back) up that failed |

use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

use crate::{BusError, Interruption, Published};

/// Handles of all metrics; cloning shares them. Made after the recorder was installed.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    logged: Counter,
    sent: Counter,
    duplicate: Counter,
    failed: Counter,
    publish_seconds: Histogram,
    pub(crate) feed_messages: Counter,
    pub(crate) feed_dropped: Counter,
    pub(crate) feed_waiting: Gauge,
    pub(crate) feed_connect_failures: Counter,
}

const PUBLICATIONS: &str = "herald_bus_publications_total";
const PUBLISH_SECONDS: &str = "herald_bus_publish_seconds";
const ERRORS: &str = "herald_bus_errors_total";
const FEED_MESSAGES: &str = "herald_bus_feed_messages_total";
const FEED_DROPPED: &str = "herald_bus_feed_dropped_total";
const FEED_WAITING: &str = "herald_bus_feed_waiting_messages";
const FEED_INTERRUPTIONS: &str = "herald_bus_feed_interruptions_total";
const FEED_CONNECT_FAILURES: &str = "herald_bus_feed_connect_failures_total";

impl Metrics {
    pub(crate) fn new() -> Self {
        describe();
        let publications = |outcome| counter!(PUBLICATIONS, "outcome" => outcome);
        for reason in Interruption::ALL {
            counter!(FEED_INTERRUPTIONS, "reason" => reason.metric_label()).increment(0);
        }
        Self {
            logged: publications("logged"),
            sent: publications("sent"),
            duplicate: publications("duplicate"),
            failed: publications("failed"),
            publish_seconds: histogram!(PUBLISH_SECONDS),
            feed_messages: counter!(FEED_MESSAGES),
            feed_dropped: counter!(FEED_DROPPED),
            feed_waiting: gauge!(FEED_WAITING),
            feed_connect_failures: counter!(FEED_CONNECT_FAILURES),
        }
    }

    pub(crate) fn published(&self, answers: &[Result<Published, BusError>], took: Duration) {
        self.publish_seconds.record(took);
        let (mut logged, mut sent, mut duplicate, mut failed) = (0, 0, 0, 0);
        for answer in answers {
            match answer {
                Ok(Published::Logged(_)) => logged += 1,
                Ok(Published::Sent { .. }) => sent += 1,
                Ok(Published::Duplicate) => duplicate += 1,
                Err(error) => {
                    failed += 1;
                    self.failed_with(error);
                }
            }
        }
        self.logged.increment(logged);
        self.sent.increment(sent);
        self.duplicate.increment(duplicate);
        self.failed.increment(failed);
    }

    /// Errors are rare: their handles are looked up when they happen.
    pub(crate) fn failed_with(&self, error: &BusError) {
        counter!(ERRORS, "kind" => error.metric_label()).increment(1);
    }

    pub(crate) fn interrupted(&self, reason: Interruption) {
        counter!(FEED_INTERRUPTIONS, "reason" => reason.metric_label()).increment(1);
    }
}

fn describe() {
    describe_counter!(PUBLICATIONS, "Answers to publications, by outcome");
    describe_histogram!(PUBLISH_SECONDS, metrics::Unit::Seconds, "Time of one batch of publications");
    describe_counter!(ERRORS, "Calls, or publications of a batch, that failed, by kind");
    describe_counter!(FEED_MESSAGES, "Messages that came in on feeds");
    describe_counter!(FEED_DROPPED, "Messages dropped because a feed's reader was too slow");
    describe_gauge!(FEED_WAITING, "Messages waiting when the feed's reader last looked");
    describe_counter!(FEED_INTERRUPTIONS, "Holes in feeds, by reason");
    describe_counter!(FEED_CONNECT_FAILURES, "Attempts to bring a feed up that failed");
}
