//! What clients counted: histograms and totals, merged over threads and processes. Knows no socket.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::ledger::Account;

/// The longest latency that is told apart, an hour, in microseconds.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Percentiles are exact to 1 %: the table that every delivery touches stays in the processor's cache.
const DIGITS: u8 = 2;

/// Times in microseconds.
#[derive(Clone, Debug)]
pub struct Times(Histogram<u64>);

impl Times {
    /// None yet.
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS);
        // the bounds are constants that the library takes
        Self(histogram.unwrap_or_else(|_| unreachable!("constant bounds")))
    }

    /// One more.
    pub fn record(&mut self, us: u64) {
        self.0.saturating_record(us.max(1));
    }

    /// All of another.
    pub fn add(&mut self, other: &Self) {
        // the bounds are the same
        let _ = self.0.add(&other.0);
    }

    /// What came since an earlier state of the same times.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut recent = self.clone();
        // fails only if `earlier` is not an earlier state
        let _ = recent.0.subtract(&earlier.0);
        recent
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// A percentile in milliseconds, 0 to 100.
    pub fn percentile_ms(&self, percentile: f64) -> f64 {
        self.0.value_at_percentile(percentile) as f64 / 1e3
    }

    /// The longest, in milliseconds.
    pub fn max_ms(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }

    /// The mean, in milliseconds.
    pub fn mean_ms(&self) -> f64 {
        self.0.mean() / 1e3
    }

    /// How many there were of each value, as two numbers each.
    pub fn values(&self) -> Vec<(u64, u64)> {
        self.0
            .iter_recorded()
            .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
            .collect()
    }
}

impl Default for Times {
    fn default() -> Self {
        Self::new()
    }
}

impl Serialize for Times {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.values().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut times = Self::new();
        for (value, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            times.0.saturating_record_n(value, count);
        }
        Ok(times)
    }
}

/// What clients counted in a round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// By stream.
    pub streams: Vec<StreamTally>,
    /// How long connecting took, from the first packet to the answer to `register`.
    pub connects: Times,
    /// What happened to connections.
    pub events: Events,
}

/// What clients counted of one stream.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StreamTally {
    /// From the schedule to the client, of what was scheduled in the measured time.
    pub latency: Times,
    /// Messages that came, whatever they were to the account.
    pub received: u64,
    /// Messages that came within the measured time, whenever they were sent.
    pub arrived: u64,
    /// The settled account.
    pub account: Account,
}

/// What happened to connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// Registrations answered, and sessions resumed.
    pub registered: u64,
    /// Of those, resumed.
    pub resumed: u64,
    /// Sessions that could not be resumed.
    pub resume_refused: u64,
    /// Connections that ended though nobody here cut them.
    pub disconnected: u64,
    /// Connections cut here: churn and storms.
    pub cut: u64,
    /// Attempts to connect that failed.
    pub connect_failed: u64,
    /// `gap` events.
    pub gaps: u64,
    /// `superseded` events.
    pub superseded: u64,
    /// Messages of earlier rounds: they came after their round's drain.
    pub strays: u64,
    /// Messages without a mark of this run.
    pub foreign: u64,
}

impl Events {
    /// Adds another count.
    pub fn add(&mut self, other: &Self) {
        self.registered += other.registered;
        self.resumed += other.resumed;
        self.resume_refused += other.resume_refused;
        self.disconnected += other.disconnected;
        self.cut += other.cut;
        self.connect_failed += other.connect_failed;
        self.gaps += other.gaps;
        self.superseded += other.superseded;
        self.strays += other.strays;
        self.foreign += other.foreign;
    }
}

impl Tally {
    /// Nothing counted yet, for so many streams.
    pub fn new(streams: usize) -> Self {
        Self { streams: vec![StreamTally::default(); streams], ..Self::default() }
    }

    /// Adds another tally of the same round.
    pub fn add(&mut self, other: &Self) {
        for (ours, theirs) in self.streams.iter_mut().zip(&other.streams) {
            ours.latency.add(&theirs.latency);
            ours.received += theirs.received;
            ours.arrived += theirs.arrived;
            ours.account.add(&theirs.account);
        }
        self.connects.add(&other.connects);
        self.events.add(&other.events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_way_between_processes() {
        let mut times = Times::new();
        for us in [1, 50, 999, 1_000, 123_456, 99_999_999_999] {
            times.record(us);
        }
        let text = serde_json::to_string(&times).unwrap();
        let back: Times = serde_json::from_str(&text).unwrap();
        assert_eq!(back.values(), times.values());
        assert_eq!((back.count(), back.percentile_ms(50.0)), (6, times.percentile_ms(50.0)));
        let mut both = back;
        both.add(&times);
        assert_eq!(both.count(), 12);
    }
}
