//! The registry's metrics: every name in one place, described, as typed handles.
//!
//! | name | kind | meaning |
//! |---|---|---|
//! | `herald_registry_attached_edges` | gauge | edges attached to this replica |
//! | `herald_registry_edges` | gauge | edges whose lease stands, wherever attached |
//! | `herald_registry_claims_total` | counter | claims heard, repetitions too |
//! | `herald_registry_releases_total` | counter | owners dropped by a release |
//! | `herald_registry_evictions_total` | counter | evictions told to edges attached here |
//! | `herald_registry_evictions_untold_total` | counter | of those, found only by an audit: they had been lost on the way |
//! | `herald_registry_disconnects_total` | counter | connections that somebody asked to close |
//! | `herald_registry_lease_expiries_total` | counter | edges swept by this replica because their lease ended |
//! | `herald_registry_forgotten_total` | counter | owners dropped because an edge attached anew and did not repeat them |
//! | `herald_registry_inbox_full_total` | counter | messages for an edge dropped because its inbox was full; an audit follows |
//! | `herald_registry_slow_edges_total` | counter | streams closed because the edge did not read them |
//! | `herald_registry_streams_closed_total{code}` | counter | ends of attach streams, by gRPC code |
//! | `herald_registry_requests_total{method,code}` | counter | answers to the other calls, by gRPC code |
//! | `herald_registry_watchers` | gauge | open WatchPressure streams |
//! | `herald_registry_pressure_lateness_seconds` | gauge | lateness of the edge that is worst, as last looked at |
//! | `herald_registry_pressure_fullness_ratio` | gauge | fullness of the worst edge, 0 to 1 |
//! | `herald_registry_events_sent_total` | counter | messages for edges that are attached elsewhere |
//! | `herald_registry_events_received_total` | counter | messages from other replicas and from this one, probes too |
//! | `herald_registry_store_seconds{operation}` | histogram | how long the store took |
//! | `herald_registry_store_waits_total` | counter | questions to Redis that waited because enough were under way |
//! | `herald_registry_store_errors_total{operation}` | counter | what the store failed to do, refusals (`Fenced`) excepted |

use std::time::Duration;

use metrics::{
    Counter, Gauge, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::store::StoreError;

/// One handle for each metric without labels.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) attached_edges: Gauge,
    pub(crate) edges: Gauge,
    pub(crate) claims: Counter,
    pub(crate) releases: Counter,
    pub(crate) evictions: Counter,
    pub(crate) evictions_untold: Counter,
    pub(crate) disconnects: Counter,
    pub(crate) lease_expiries: Counter,
    pub(crate) forgotten: Counter,
    pub(crate) inbox_full: Counter,
    pub(crate) slow_edges: Counter,
    pub(crate) watchers: Gauge,
    pub(crate) pressure_lateness: Gauge,
    pub(crate) pressure_fullness: Gauge,
    pub(crate) events_sent: Counter,
    pub(crate) events_received: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        describe_counter!("herald_registry_streams_closed_total", "Ends of attach streams, by gRPC code");
        describe_counter!("herald_registry_requests_total", "Answers to calls, by method and gRPC code");
        describe_histogram!("herald_registry_store_seconds", "How long the store took, by operation");
        describe_counter!("herald_registry_store_waits_total", "Questions to Redis that waited for others");
        describe_counter!("herald_registry_store_errors_total", "What the store failed to do, by operation");
        Self {
            attached_edges: new_gauge("herald_registry_attached_edges", "Edges attached to this replica"),
            edges: new_gauge("herald_registry_edges", "Edges whose lease stands, wherever attached"),
            claims: new_counter("herald_registry_claims_total", "Claims heard, repetitions too"),
            releases: new_counter("herald_registry_releases_total", "Owners dropped by a release"),
            evictions: new_counter(
                "herald_registry_evictions_total",
                "Evictions told to edges attached here",
            ),
            evictions_untold: new_counter(
                "herald_registry_evictions_untold_total",
                "Evictions that had been lost on the way, found by an audit",
            ),
            disconnects: new_counter("herald_registry_disconnects_total", "Connections asked to close"),
            lease_expiries: new_counter(
                "herald_registry_lease_expiries_total",
                "Edges swept by this replica",
            ),
            forgotten: new_counter("herald_registry_forgotten_total", "Owners not repeated after an attach"),
            inbox_full: new_counter("herald_registry_inbox_full_total", "Messages dropped at a full inbox"),
            slow_edges: new_counter("herald_registry_slow_edges_total", "Streams closed because nobody read"),
            watchers: new_gauge("herald_registry_watchers", "Open WatchPressure streams"),
            pressure_lateness: new_gauge(
                "herald_registry_pressure_lateness_seconds",
                "The worst edge's lateness",
            ),
            pressure_fullness: new_gauge(
                "herald_registry_pressure_fullness_ratio",
                "The worst edge's fullness",
            ),
            events_sent: new_counter(
                "herald_registry_events_sent_total",
                "Messages for edges attached elsewhere",
            ),
            events_received: new_counter("herald_registry_events_received_total", "Messages from replicas"),
        }
    }
}

pub(crate) fn store_did(operation: &'static str, took: Duration, error: Option<&StoreError>) {
    histogram!("herald_registry_store_seconds", "operation" => operation).record(took);
    if error.is_some_and(|error| !matches!(error, StoreError::Fenced)) {
        counter!("herald_registry_store_errors_total", "operation" => operation).increment(1);
    }
}

pub(crate) fn store_waited() {
    counter!("herald_registry_store_waits_total").increment(1);
}

pub(crate) fn stream_closed(code: tonic::Code) {
    counter!("herald_registry_streams_closed_total", "code" => format!("{code:?}")).increment(1);
}

pub(crate) fn answered<T>(method: &'static str, answer: &Result<T, tonic::Status>) {
    let code = answer.as_ref().map_or_else(tonic::Status::code, |_| tonic::Code::Ok);
    counter!("herald_registry_requests_total", "method" => method, "code" => format!("{code:?}"))
        .increment(1);
}

fn new_counter(name: &'static str, help: &'static str) -> Counter {
    describe_counter!(name, help);
    counter!(name)
}

fn new_gauge(name: &'static str, help: &'static str) -> Gauge {
    describe_gauge!(name, help);
    gauge!(name)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_names_every_metric_and_no_other() {
        let source = include_str!("metrics.rs");
        let code = source.split("#[cfg(test)]").next().unwrap();
        let names_in = |marker: &str, end: char| -> std::collections::BTreeSet<String> {
            let found = code.split(marker).skip(1).filter_map(|rest| rest.split(end).next());
            found.map(|name| name.split('{').next().unwrap().to_owned()).collect()
        };
        let documented = names_in("//! | `herald_registry_", '`');
        let declared = names_in("\"herald_registry_", '"');
        assert_eq!(documented, declared);
        assert!(documented.len() > 15);
    }

    #[test]
    fn every_handle_is_used() {
        let users = [
            include_str!("lib.rs"),
            include_str!("stay.rs"),
            include_str!("keeper.rs"),
            include_str!("grpc.rs"),
            include_str!("seats.rs"),
        ]
        .concat();
        let declaration = include_str!("metrics.rs").split("impl Metrics").next().unwrap();
        for field in declaration.lines().filter_map(|line| line.trim().strip_prefix("pub(crate) ")) {
            let Some((name, _)) = field.split_once(": ") else { continue };
            assert!(users.contains(&format!("metrics.{name}.")), "{name} is never touched");
        }
    }
}
