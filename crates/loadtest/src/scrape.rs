//! How long each stage of a message's way took, by the services' own histograms: read at the begin of what is measured
//! and at its end, the difference is what is told. What a histogram is belongs to `histogram`.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;

use crate::histogram::Histogram;

/// The stages in the order of a message's way, and the metrics that tell of them.
const STAGES: [(&str, &str); 5] = [
    ("broker wait", "herald_ingest_broker_wait_seconds"),
    ("ingest", "herald_ingest_hold_seconds"),
    ("Redis", "herald_edge_feed_seconds"),
    ("edge queue", "herald_edge_queue_seconds"),
    ("socket", "herald_edge_write_seconds"),
];
const TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Reads `/metrics` of services.
#[derive(Clone, Debug)]
pub struct Scraper(Vec<SocketAddr>);

/// A service's metrics cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("http://{at}/metrics cannot be read: {source}")]
pub struct ScrapeError {
    /// Where.
    at: SocketAddr,
    /// Why.
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// How long the stages took.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stages {
    /// Those of which something is known, in the order of a message's way.
    pub stages: Vec<Stage>,
    /// Why others are left out.
    #[serde(rename = "stage_notes")]
    pub notes: Vec<String>,
}

/// One stage; times in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// For people.
    pub name: &'static str,
    /// The histogram's name.
    pub metric: &'static str,
    /// How many times were measured.
    pub count: u64,
    /// Exact.
    pub mean: f64,
    /// Interpolated within a bucket.
    pub p50: f64,
    /// Interpolated within a bucket.
    pub p99: f64,
}

/// What one address said: the stages' histograms.
pub(crate) type Reading = Result<[Option<Histogram>; STAGES.len()], ScrapeError>;

impl Scraper {
    /// Reads each address once, and forgets what it said.
    ///
    /// # Errors
    /// When one of them does not answer with metrics.
    pub async fn new(addresses: Vec<SocketAddr>) -> Result<Self, ScrapeError> {
        let scraper = Self(addresses);
        scraper.read().await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(scraper)
    }

    /// What each address says now.
    pub(crate) async fn read(&self) -> Vec<Reading> {
        futures_util::future::join_all(self.0.iter().map(|at| read(*at))).await
    }
}

async fn read(at: SocketAddr) -> Reading {
    let told = tokio::time::timeout(TIMEOUT, fetch(at)).await;
    let text = told.unwrap_or_else(|late| Err(late.into())).map_err(|source| ScrapeError { at, source })?;
    Ok(STAGES.map(|(_, metric)| Histogram::read(&text, metric)))
}

async fn fetch(at: SocketAddr) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = handshake(TokioIo::new(TcpStream::connect(at).await?)).await?;
    let request = Request::get("/metrics").header(header::HOST, at.to_string()).body(Empty::<Bytes>::new())?;
    let asking = async {
        let answer = sender.send_request(request).await?;
        if answer.status() != StatusCode::OK {
            return Err(answer.status().to_string().into());
        }
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    };
    let mut asking = std::pin::pin!(asking);
    tokio::select! {
        told = &mut asking => told,
        // it ends before its answer is whole: the answer's side says why
        _ = connection => asking.await,
    }
}

impl Stages {
    /// Whether nobody was asked.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty() && self.notes.is_empty()
    }

    /// What came between two readings of the same addresses.
    pub(crate) fn between(before: &[Reading], after: &[Reading]) -> Self {
        let mut all = Self::default();
        let failed = before.iter().chain(after).filter_map(|reading| reading.as_ref().err());
        all.notes.extend(failed.map(|error| format!("an address is left out: {error}")));
        let read: Vec<_> = before
            .iter()
            .zip(after)
            .filter_map(|pair| Some((pair.0.as_ref().ok()?, pair.1.as_ref().ok()?)))
            .collect();
        for (i, (name, metric)) in STAGES.into_iter().enumerate() {
            match between(read.iter().map(|(before, after)| (before[i].as_ref(), after[i].as_ref()))) {
                Ok(of) => all.stages.push(Stage {
                    name,
                    metric,
                    count: of.count() as u64,
                    mean: of.mean() * 1e3,
                    p50: of.quantile(0.5) * 1e3,
                    p99: of.quantile(0.99) * 1e3,
                }),
                Err(why) => all.notes.push(format!("{name} is left out: {metric}: {why}")),
            }
        }
        all
    }
}

/// One metric's difference, all addresses together.
fn between<'h>(
    readings: impl Iterator<Item = (Option<&'h Histogram>, Option<&'h Histogram>)>,
) -> Result<Histogram, String> {
    let mut all = None::<Histogram>;
    for reading in readings {
        let since = match reading {
            (None, None) => continue,
            // it appears with its first value
            (None, Some(after)) => after.clone(),
            (Some(before), Some(after)) => after.since(before).map_err(|error| error.to_string())?,
            (Some(_), None) => return Err("it is gone: the process was restarted".to_owned()),
        };
        all.get_or_insert_default().add(&since).map_err(|error| error.to_string())?;
    }
    match all {
        None => Err("no address has it".to_owned()),
        Some(all) if all.count() == 0.0 => Err("nothing was measured".to_owned()),
        Some(all) => Ok(all),
    }
}

impl Display for Stages {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.stages.is_empty() {
            writeln!(f, "stages, ms (means are exact, quantiles interpolated within the services' buckets)")?;
            writeln!(f, "  {:<12}{:>12}{:>10}{:>10}{:>10}", "stage", "count", "mean", "p50", "p99")?;
        }
        for Stage { name, count, mean, p50, p99, .. } in &self.stages {
            writeln!(f, "  {name:<12}{count:>12}{mean:>10.3}{p50:>10.3}{p99:>10.3}")?;
        }
        for note in &self.notes {
            writeln!(f, "  {note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(metric: &str, few: u32, all: u32, sum: f64) -> Reading {
        let text = format!(
            "{metric}_bucket{{le=\"0.001\"}} {few}\n{metric}_bucket{{le=\"+Inf\"}} {all}\n{metric}_sum {sum}\n"
        );
        Ok(STAGES.map(|(_, metric)| Histogram::read(&text, metric)))
    }

    const FEED: &str = "herald_edge_feed_seconds";

    #[test]
    fn addresses_are_added_up_and_what_nobody_has_is_told() {
        let before = [reading(FEED, 10, 10, 0.01), reading("other", 1, 1, 1.0)];
        let after = [reading(FEED, 30, 30, 0.03), reading(FEED, 20, 20, 0.06)];
        let told = Stages::between(&before, &after);
        assert_eq!(told.stages.len(), 1);
        let Stage { name, count, mean, p50, p99, .. } = told.stages[0].clone();
        assert_eq!((name, count), ("Redis", 40));
        assert!((mean - 2.0).abs() < 1e-9 && (p50 - 0.5).abs() < 1e-9 && (p99 - 0.99).abs() < 1e-9, "{told}");
        assert_eq!(told.notes.len(), 4);
        assert_eq!(
            told.notes[0],
            "broker wait is left out: herald_ingest_broker_wait_seconds: no address has it"
        );
    }

    #[test]
    fn a_restart_and_silence_are_no_stage() {
        let told = Stages::between(&[reading(FEED, 5, 5, 1.0)], &[reading(FEED, 2, 2, 0.5)]);
        assert_eq!(told.stages, []);
        assert!(told.notes[2].ends_with("it began anew: the process was restarted"), "{told}");
        let told = Stages::between(&[reading(FEED, 5, 5, 1.0)], &[reading(FEED, 5, 5, 1.0)]);
        assert!(told.notes[2].ends_with("nothing was measured"), "{told}");
        let told = Stages::between(&[reading(FEED, 5, 5, 1.0)], &[reading("other", 5, 5, 1.0)]);
        assert!(told.notes[2].ends_with("it is gone: the process was restarted"), "{told}");
    }
}
