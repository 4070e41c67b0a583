//! What the edge counts. Each handle is made once; its help text is what Prometheus shows. `docs/metrics.md` lists them.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use crate::delivery::now_us;
use crate::pressure::Pressure;

fn counter(name: &'static str, help: &'static str) -> Counter {
    metrics::describe_counter!(name, help);
    metrics::counter!(name)
}

fn gauge(name: &'static str, help: &'static str) -> Gauge {
    metrics::describe_gauge!(name, help);
    metrics::gauge!(name)
}

fn histogram(name: &'static str, help: &'static str) -> Histogram {
    metrics::describe_histogram!(name, metrics::Unit::Seconds, help);
    metrics::histogram!(name)
}

fn labelled(name: &'static str, help: &'static str, label: &'static str, value: &'static str) -> Counter {
    metrics::describe_counter!(name, help);
    metrics::counter!(name, label => value)
}

/// Of the hub's shards.
#[derive(Clone)]
pub(crate) struct HubMetrics {
    delivered_volatile: Counter,
    delivered_reliable: Counter,
    offered_volatile: Counter,
    offered_reliable: Counter,
    abandoned_volatile: Counter,
    abandoned_reliable: Counter,
    pub(crate) dropped_outbox: Counter,
    pub(crate) dropped_lagging: Counter,
    pub(crate) lagged: Counter,
    pub(crate) queue: Histogram,
    pub(crate) write: Histogram,
    pub(crate) unfollowed: Counter,
}

impl HubMetrics {
    pub(crate) fn new() -> Self {
        const DELIVERED: &str = "herald_edge_delivered_total";
        const DELIVERED_HELP: &str = "Messages handed to a connection's socket or response, by class";
        const DROPPED: &str = "herald_edge_dropped_total";
        const DROPPED_HELP: &str = "Volatile messages not delivered to a connection, by reason";
        const OFFERED: &str = "herald_edge_offered_total";
        const OFFERED_HELP: &str = "Messages that were some connection's to deliver, by class";
        const ABANDONED: &str = "herald_edge_abandoned_total";
        const ABANDONED_HELP: &str = "Messages not written when their connection ended, by class";
        Self {
            offered_volatile: labelled(OFFERED, OFFERED_HELP, "class", "volatile"),
            offered_reliable: labelled(OFFERED, OFFERED_HELP, "class", "reliable"),
            abandoned_volatile: labelled(ABANDONED, ABANDONED_HELP, "class", "volatile"),
            abandoned_reliable: labelled(ABANDONED, ABANDONED_HELP, "class", "reliable"),
            delivered_volatile: labelled(DELIVERED, DELIVERED_HELP, "class", "volatile"),
            delivered_reliable: labelled(DELIVERED, DELIVERED_HELP, "class", "reliable"),
            dropped_outbox: labelled(DROPPED, DROPPED_HELP, "reason", "outbox_full"),
            dropped_lagging: labelled(DROPPED, DROPPED_HELP, "reason", "lagging"),
            lagged: counter(
                "herald_edge_lagged_total",
                "Times a connection's outbox was full and it began to lag",
            ),
            queue: histogram(
                "herald_edge_queue_seconds",
                "From the feed to the outboxes of a shard's connections",
            ),
            write: histogram(
                "herald_edge_write_seconds",
                "From the outboxes until each of a shard's connections had its turn to be written",
            ),
            unfollowed: counter(
                "herald_edge_write_unfollowed_total",
                "Messages not followed to their writes, so in no histogram of them: too many were at that time",
            ),
        }
    }

    /// These are some connection's to deliver now: each will be delivered, dropped or abandoned.
    pub(crate) fn offered(&self, volatile: u64, reliable: u64) {
        if volatile > 0 {
            self.offered_volatile.increment(volatile);
        }
        if reliable > 0 {
            self.offered_reliable.increment(reliable);
        }
    }

    /// Their connection ended.
    pub(crate) fn abandoned(&self, volatile: u64, reliable: u64) {
        self.abandoned_volatile.increment(volatile);
        self.abandoned_reliable.increment(reliable);
    }

    pub(crate) fn delivered(&self, volatile: u64, reliable: u64) {
        if volatile > 0 {
            self.delivered_volatile.increment(volatile);
        }
        if reliable > 0 {
            self.delivered_reliable.increment(reliable);
        }
    }
}

/// Of how far the edge is behind.
#[derive(Clone)]
pub(crate) struct PressureMetrics {
    feed: Gauge,
    hub: Gauge,
    fullness: Gauge,
}

impl PressureMetrics {
    pub(crate) fn new() -> Self {
        Self {
            feed: gauge(
                "herald_edge_pressure_feed_seconds",
                "How long a message takes from Redis to the feed",
            ),
            hub: gauge(
                "herald_edge_pressure_hub_seconds",
                "How long a message takes from the feed until its connections had their turn",
            ),
            fullness: gauge(
                "herald_edge_pressure_fullness_ratio",
                "How full the queues from the feed to the sockets are, 0 to 1",
            ),
        }
    }

    pub(crate) fn measured(&self, pressure: &Pressure) {
        self.feed.set(pressure.feed.as_secs_f64());
        self.hub.set(pressure.hub.as_secs_f64());
        self.fullness.set(f64::from(pressure.fullness_permille) / 1e3);
    }
}

/// Of the feed.
#[derive(Clone)]
pub(crate) struct FeedMetrics {
    feed: Histogram,
    pub(crate) received: Counter,
    pub(crate) expired: Counter,
    pub(crate) unreadable: Counter,
    pub(crate) duplicates: Counter,
    pub(crate) interruptions: Counter,
    pub(crate) recovered: Counter,
    pub(crate) gaps: Counter,
    pub(crate) checked: Counter,
    pub(crate) found_behind: Counter,
    pub(crate) probe: Histogram,
    pub(crate) probes_lost: Counter,
}

impl FeedMetrics {
    pub(crate) fn new() -> Self {
        Self {
            feed: histogram(
                "herald_edge_feed_seconds",
                "From ingest's publish to the edge's feed, by the two machines' clocks",
            ),
            received: counter("herald_edge_received_total", "Messages received from Redis"),
            expired: counter(
                "herald_edge_expired_total",
                "Messages whose time was over when they reached the edge",
            ),
            unreadable: counter("herald_edge_unreadable_total", "Messages from Redis that are no envelopes"),
            duplicates: counter(
                "herald_edge_feed_duplicates_total",
                "Messages the feed brought a second time",
            ),
            interruptions: counter(
                "herald_edge_feed_interruptions_total",
                "Times the feed lost messages or may have",
            ),
            recovered: counter(
                "herald_edge_feed_recovered_total",
                "Messages the feed had lost, read from the logs",
            ),
            gaps: counter(
                "herald_edge_feed_gaps_total",
                "Channels of which the logs no longer held what was lost",
            ),
            checked: counter(
                "herald_edge_positions_checked_total",
                "Comparisons of a channel's last position with its log's",
            ),
            found_behind: counter(
                "herald_edge_positions_behind_total",
                "Channels found by such a comparison to have lost messages on the feed",
            ),
            probe: histogram(
                "herald_edge_probe_seconds",
                "From publishing a probe to receiving it by the feed",
            ),
            probes_lost: counter("herald_edge_probes_lost_total", "Probes that did not come back in time"),
        }
    }

    /// A message published then is here now.
    pub(crate) fn came(&self, published_at_us: u64) {
        self.feed.record(Duration::from_micros(now_us().saturating_sub(published_at_us)));
    }
}

/// Of catch-ups from the logs.
#[derive(Clone)]
pub(crate) struct CatchUpMetrics {
    pub(crate) running: Gauge,
    pub(crate) finished: Counter,
    pub(crate) failures: Counter,
    pub(crate) replayed: Counter,
    pub(crate) expired: Counter,
    pub(crate) unreadable: Counter,
    pub(crate) copies: Counter,
    pub(crate) gaps: Counter,
}

impl CatchUpMetrics {
    pub(crate) fn new() -> Self {
        Self {
            running: gauge("herald_edge_catch_ups", "Connections that are brought back to the live feed"),
            finished: counter(
                "herald_edge_catch_ups_finished_total",
                "Connections that reached the live feed",
            ),
            failures: counter(
                "herald_edge_catch_up_failures_total",
                "Reads of logs that failed and are tried again",
            ),
            replayed: counter("herald_edge_replayed_total", "Messages delivered from the logs"),
            expired: counter("herald_edge_replay_expired_total", "Log entries whose time was over"),
            unreadable: counter("herald_edge_replay_unreadable_total", "Log entries that are no envelopes"),
            copies: counter(
                "herald_edge_replay_copies_total",
                "Log entries not delivered because their session had them by another target",
            ),
            gaps: counter("herald_edge_gaps_total", "Gaps told to connections: retention did not reach back"),
        }
    }
}

/// Of connections and what their clients ask.
#[derive(Clone)]
pub(crate) struct ClientMetrics {
    pub(crate) registrations: Counter,
    pub(crate) registrations_refused: Counter,
    pub(crate) superseded: Counter,
    pub(crate) resumed: Counter,
    pub(crate) resume_refused: Counter,
    pub(crate) marks_waited: Counter,
    pub(crate) sessions: Gauge,
    pub(crate) channels: Gauge,
    pub(crate) claims: Gauge,
}

impl ClientMetrics {
    pub(crate) fn new() -> Self {
        Self {
            registrations: counter("herald_edge_registrations_total", "Registrations accepted"),
            registrations_refused: counter(
                "herald_edge_registrations_refused_total",
                "Registrations refused",
            ),
            superseded: counter(
                "herald_edge_superseded_total",
                "Connections whose socketId another one claimed",
            ),
            resumed: counter("herald_edge_resumed_total", "Sessions resumed on a new connection"),
            resume_refused: counter(
                "herald_edge_resume_refused_total",
                "Sessions that could not be resumed: unknown, expired, or with a cursor that is none",
            ),
            marks_waited: counter(
                "herald_edge_last_marks_waited_total",
                "Connections that, at their end, had to wait to hand in how far their mailbox was written",
            ),
            sessions: gauge("herald_edge_sessions", "Sessions of connections that are open"),
            channels: gauge("herald_edge_channels", "Channels subscribed to on Redis"),
            claims: gauge("herald_edge_claims", "SocketIds held here"),
        }
    }
}

/// A connection opened by this transport.
pub(crate) fn opened(transport: &'static str) -> Gauge {
    metrics::describe_counter!("herald_edge_opened_total", "Connections opened, by transport");
    metrics::describe_gauge!("herald_edge_connections", "Connections open, by transport");
    metrics::counter!("herald_edge_opened_total", "transport" => transport).increment(1);
    metrics::gauge!("herald_edge_connections", "transport" => transport)
}

/// A connection that ended for this reason.
pub(crate) fn closed(reason: &'static str) {
    metrics::describe_counter!("herald_edge_closed_total", "Connections closed, by reason");
    metrics::counter!("herald_edge_closed_total", "reason" => reason).increment(1);
}

/// A request that was refused for this reason.
pub(crate) fn refused(reason: &'static str) {
    metrics::describe_counter!("herald_edge_refused_total", "Requests and connections refused, by reason");
    metrics::counter!("herald_edge_refused_total", "reason" => reason).increment(1);
}
