//! What is printed and written: progress, the report, CSV, JSON, a plot, the cost of processes.

use std::fmt::Arguments;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use herald_chassis::BoxError;
use herald_loadtest::usage::{self, Usage, Watched};
use herald_loadtest::{Connected, Plan, Progress, Report};
use serde::Serialize;

use crate::plot;
use crate::settings::Settings;
use crate::steps::{self, Step};

pub(crate) struct Output {
    is_quiet: bool,
    json: Option<PathBuf>,
    csv: Option<File>,
    plot: Option<PathBuf>,
    /// One for each second of a day at most: no round is longer.
    seconds: Vec<Progress>,
    names: Vec<String>,
    watched: Vec<Watched>,
    connected: Option<Connected>,
}

/// The JSON: one report, or that of every rate that was tried, or both.
#[derive(Serialize)]
struct Whole<'r> {
    connected: Option<Connected>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<&'r Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<&'r [Usage]>,
    #[serde(skip_serializing_if = "<[Step]>::is_empty")]
    steps: &'r [Step],
}

impl Output {
    pub(crate) fn new(settings: &Settings) -> io::Result<Self> {
        let csv = settings.csv.as_deref().map(|path| create("--csv", path)).transpose()?;
        if let Some(mut csv) = csv.as_ref() {
            writeln!(csv, "seconds,registered,offered,received,p50_ms,p99_ms")?;
        }
        if let Some(plot) = &settings.plot {
            // drawn at the end; that it cannot be written is told before the run
            create("--plot", plot)?;
        }
        Ok(Self {
            is_quiet: settings.quiet,
            json: settings.json.clone(),
            csv,
            plot: settings.plot.clone(),
            seconds: Vec::new(),
            names: settings.watch.clone(),
            watched: Vec::new(),
            connected: None,
        })
    }

    fn say(&self, what: Arguments<'_>) {
        if !self.is_quiet {
            let _ = writeln!(io::stderr(), "{what}");
        }
    }

    /// Begins to watch the named processes, and this one.
    pub(crate) fn watch(&mut self) {
        self.watched = self.names.iter().flat_map(|name| usage::find(name)).collect();
        self.watched.extend(usage::family());
    }

    pub(crate) fn connecting(&self, plan: &Plan) {
        self.say(format_args!(
            "{} clients in {} groups connect to {} edges",
            plan.cast.clients,
            plan.cast.groups,
            plan.edges.len()
        ));
    }

    pub(crate) fn connected(&mut self, connected: &Connected) {
        self.connected = Some(*connected);
        let Connected { clients, seconds } = connected;
        self.say(format_args!("{clients} registered in {seconds:.2} s: {:.0}/s", *clients as f64 / seconds));
    }

    pub(crate) fn progress(&mut self, now: &Progress) -> io::Result<()> {
        let Progress { seconds, registered, offered, received, p50_ms, p99_ms, .. } = now;
        self.say(format_args!(
            "{seconds:6.1} s  {registered} clients  {offered} offered  {received} received  p50 {p50_ms:.2}  \
             p99 {p99_ms:.2} ms"
        ));
        if self.plot.is_some() {
            self.seconds.push(*now);
        }
        if let Some(csv) = &mut self.csv {
            writeln!(csv, "{seconds:.3},{registered},{offered},{received},{p50_ms:.3},{p99_ms:.3}")?;
        }
        Ok(())
    }

    /// Of a rate that was tried.
    pub(crate) fn step(&self, Step { rate, is_good, report, .. }: &Step) {
        let verdict = match is_good {
            None => "",
            Some(true) => " is good",
            Some(false) => " is too much",
        };
        let why = report.faults().join("; ");
        self.say(format_args!(
            "{rate:.1} msg/s{verdict}: {:.0} delivered/s, p99 {:.1} ms {why}",
            report.delivered_per_second, report.latency.p99
        ));
    }

    pub(crate) fn idle(&self, registered: u64) {
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{registered} clients are registered");
        for usage in self.usages() {
            let _ = writeln!(out, "{}", line(&usage));
        }
    }

    /// One report, and in the JSON all rates that were tried for it.
    pub(crate) fn report(&self, step: &Step, tried: &[Step]) -> Result<(), BoxError> {
        let Step { report, processes, .. } = step;
        let mut out = io::stdout().lock();
        write!(out, "{report}")?;
        for usage in processes {
            writeln!(out, "{}", line(usage))?;
        }
        if !self.names.is_empty() {
            let (ours, theirs) = step.cores();
            let share = 100.0 * ours / (ours + theirs).max(1e-9);
            writeln!(out, "the generator took {share:.0} % of the CPU of all of these")?;
        }
        let connected = self.connected;
        self.write_json(&Whole {
            connected,
            report: Some(report),
            processes: Some(processes),
            steps: tried,
        })?;
        match &self.plot {
            Some(path) if tried.is_empty() => plot::of_time(path, &self.seconds),
            Some(path) => plot::of_rates(path, tried),
            None => Ok(()),
        }
    }

    /// All steps.
    pub(crate) fn steps(&self, steps: &[Step]) -> Result<(), BoxError> {
        write!(io::stdout().lock(), "{}", steps::Table(steps))?;
        self.write_json(&Whole { connected: self.connected, report: None, processes: None, steps })?;
        self.plot.as_ref().map_or(Ok(()), |path| plot::of_rates(path, steps))
    }

    fn write_json(&self, whole: &Whole<'_>) -> Result<(), BoxError> {
        if let Some(path) = &self.json {
            fs::write(path, serde_json::to_vec_pretty(whole)?)?;
        }
        Ok(())
    }

    /// What the watched processes cost since they are watched.
    pub(crate) fn usages(&self) -> Vec<Usage> {
        self.watched.iter().filter_map(Watched::usage).collect()
    }
}

fn create(flag: &str, path: &Path) -> io::Result<File> {
    File::create(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{flag} {}: {error}", path.display())))
}

fn line(usage: &Usage) -> String {
    let Usage { pid, name, cores, rss_mib } = usage;
    format!("process      {name} ({pid}): {cores:.2} cores, {rss_mib:.1} MiB")
}
