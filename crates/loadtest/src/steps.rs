//! Several rates one after another: what came of each, and a table of all.

use std::fmt::{self, Display, Formatter};

use herald_loadtest::Report;
use herald_loadtest::usage::Usage;
use serde::Serialize;

const OWN_NAME: &str = "herald-loadtest";

/// What came of one rate.
#[derive(Serialize)]
pub(crate) struct Step {
    /// Messages a second.
    pub(crate) rate: f64,
    /// Whether it met a search's objective.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) is_good: Option<bool>,
    pub(crate) report: Report,
    /// What the watched processes cost meanwhile, and this one.
    pub(crate) processes: Vec<Usage>,
}

impl Step {
    /// Cores that the generator used, and those that are watched.
    pub(crate) fn cores(&self) -> (f64, f64) {
        let sum = |is_own: bool| {
            let of = self.processes.iter().filter(|usage| (usage.name == OWN_NAME) == is_own);
            of.map(|usage| usage.cores).sum()
        };
        (sum(true), sum(false))
    }
}

/// One line for each step.
pub(crate) struct Table<'s>(pub(crate) &'s [Step]);

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>10}{:>14}{:>10}{:>10}{:>12}{:>12}{:>10}{:>10}",
            "msg/s", "delivered/s", "lost", "shed", "p50 ms", "p99 ms", "cores", "own cores"
        )?;
        for step in self.0 {
            let missed = |reliable: bool| -> u64 {
                let of = step.report.streams.iter().filter(|stream| stream.reliable == reliable);
                of.map(|stream| stream.account.lost).sum()
            };
            let (own, watched) = step.cores();
            let Report { delivered_per_second, latency, .. } = &step.report;
            writeln!(
                f,
                "{:>10.1}{delivered_per_second:>14.0}{:>10}{:>10}{:>12.2}{:>12.2}{watched:>10.2}{own:>10.2}",
                step.rate,
                missed(true),
                missed(false),
                latency.p50,
                latency.p99
            )?;
        }
        for step in self.0 {
            let faults = step.report.faults();
            if !faults.is_empty() {
                writeln!(f, "FAULTS at {:.1} msg/s: {}", step.rate, faults.join("; "))?;
            }
            if !step.report.stages.is_empty() {
                write!(f, "at {:.1} msg/s: {}", step.rate, step.report.stages)?;
            }
        }
        Ok(())
    }
}
