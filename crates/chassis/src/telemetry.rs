//! Logs and metrics, set up once per process. Which metrics there are belongs to each service's `metrics.rs`.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Common, LogFormat};
use crate::process::ProcessMetrics;

/// Buckets of every histogram whose name ends with `_seconds`: 100 µs to 60 s.
pub const SECONDS: [f64; 18] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0,
];

/// Buckets of every histogram whose name ends with `_bytes`: 64 B to 16 MiB.
pub const BYTES: [f64; 10] =
    [64.0, 256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

/// Buckets of every histogram whose name ends with `_size`: how many things were done at once.
pub const SIZES: [f64; 11] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 10_000.0];

// histograms are kept as samples until then: a second of them at a million a second would be 8 MB
const UPKEEP: Duration = Duration::from_secs(1);

/// The recorded metrics, for rendering. Cloning is a reference count.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
    process: ProcessMetrics,
}

impl Metrics {
    /// Renders what the recorder of this handle recorded.
    pub fn new(handle: PrometheusHandle) -> Self {
        Self { handle, process: ProcessMetrics::new() }
    }

    /// The Prometheus text format, process metrics read freshly. Reads `/proc`: call it where blocking is fine.
    pub fn render(&self) -> String {
        self.process.refresh();
        self.handle.render()
    }

    /// Folds samples into buckets, for ever.
    pub async fn upkeep(self) {
        let mut every = tokio::time::interval(UPKEEP);
        loop {
            every.tick().await;
            self.handle.run_upkeep();
        }
    }
}

/// Telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter cannot be read.
    #[error("HERALD_LOG: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something else in this process logs already.
    #[error("logs are set up already: {0}")]
    Subscriber(#[from] tracing_subscriber::util::TryInitError),
    /// The buckets are wrong.
    #[error("metrics cannot be set up: {0}")]
    Buckets(#[from] BuildError),
    /// Something else in this process records metrics already.
    #[error("metrics are set up already")]
    Recorder,
}

/// Sets up logs on stderr (stdout is for what a program prints), the panic hook, and the metrics recorder.
///
/// # Errors
/// When this process has set them up before.
pub fn init(common: &Common) -> Result<Metrics, TelemetryError> {
    let filter = EnvFilter::builder().parse(&common.log)?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match common.log_format {
        LogFormat::Text => logs.with_ansi(io::stderr().is_terminal()).finish().try_init()?,
        LogFormat::Json => logs.json().flatten_event(true).finish().try_init()?,
    }
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        tracing::error!(location, "panic: {}", panic.payload_as_str().unwrap_or("(no text)"));
    }));
    let recorder = recorder()?;
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| TelemetryError::Recorder)?;
    Ok(Metrics::new(handle))
}

/// A recorder with Herald's buckets, for tests that look at metrics.
///
/// # Errors
/// Never, unless the buckets above are emptied.
pub fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &BYTES)?
        .set_buckets_for_metric(Matcher::Suffix("_size".into()), &SIZES)?;
    Ok(builder.build_recorder())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_buckets_not_summaries() {
        let recorder = recorder().unwrap();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            metrics::histogram!("a_seconds").record(0.000_2);
            metrics::histogram!("b_bytes").record(100.0);
            metrics::histogram!("c_size").record(3.0);
        });
        let text = handle.render();
        for line in [
            "a_seconds_bucket{le=\"0.00025\"} 1",
            "b_bytes_bucket{le=\"256\"} 1",
            "c_size_bucket{le=\"5\"} 1",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
