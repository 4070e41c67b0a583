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

/// The JSON: one report, or that of every rate that was tried, or both; of an idle run, who is there in the end.
#[derive(Default, Serialize)]
struct Whole<'r> {
    connected: Option<Connected>,
    #[serde(skip_serializing_if = "Option::is_none")]
    registered: Option<u64>,
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
        // written at the end; that they cannot be is told before the run
        if let Some(json) = &settings.json {
            open("--json", json)?;
        }
        if let Some(plot) = &settings.plot {
            open("--plot", plot)?;
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

    /// How many clients an idle run has in the end.
    pub(crate) fn idle(&self, registered: u64) -> Result<(), BoxError> {
        let processes = self.usages();
        let mut out = io::stdout().lock();
        writeln!(out, "{registered} clients are registered")?;
        for usage in &processes {
            writeln!(out, "{}", line(usage))?;
        }
        self.write_json(&Whole {
            connected: self.connected,
            registered: Some(registered),
            processes: Some(&processes),
            ..Whole::default()
        })
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
        self.write_json(&Whole {
            connected: self.connected,
            report: Some(report),
            processes: Some(processes),
            steps: tried,
            ..Whole::default()
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
        self.write_json(&Whole { connected: self.connected, steps, ..Whole::default() })?;
        self.plot.as_ref().map_or(Ok(()), |path| plot::of_rates(path, steps))
    }

    fn write_json(&self, whole: &Whole<'_>) -> Result<(), BoxError> {
        if let Some(path) = &self.json {
            fs::write(path, serde_json::to_vec_pretty(whole)?).map_err(told("--json", path))?;
        }
        Ok(())
    }

    /// What the watched processes cost since they are watched.
    pub(crate) fn usages(&self) -> Vec<Usage> {
        self.watched.iter().filter_map(Watched::usage).collect()
    }
}

fn create(flag: &str, path: &Path) -> io::Result<File> {
    File::create(path).map_err(told(flag, path))
}

/// Whether it can be written. What an earlier run wrote stays until there is something to take its place.
fn open(flag: &str, path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(false).open(path).map_err(told(flag, path))
}

/// An error of a file, with the flag that named it.
fn told(flag: &str, path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{flag} {}: {error}", path.display()))
}

fn line(usage: &Usage) -> String {
    let Usage { pid, name, cores, rss_mib } = usage;
    format!("process      {name} ({pid}): {cores:.2} cores, {rss_mib:.1} MiB")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn output(flag: &str, path: &Path) -> io::Result<Output> {
        let path = path.to_str().unwrap();
        Output::new(&Settings::parse_from(["herald-loadtest", "--quiet", flag, path]))
    }

    #[test]
    fn what_cannot_be_written_is_told_before_the_run_by_its_flag() {
        let folder = tempfile::tempdir().unwrap();
        for flag in ["--json", "--csv", "--plot"] {
            let path = folder.path().join("no such folder").join("file");
            let error = output(flag, &path).err().map(|error| error.to_string()).unwrap();
            assert!(error.starts_with(&format!("{flag} {}: ", path.display())), "{error}");
            // a folder is no file
            let error = output(flag, folder.path()).err().map(|error| error.to_string()).unwrap();
            assert!(error.starts_with(flag), "{error}");
        }
    }

    #[test]
    fn what_an_earlier_run_wrote_stays_until_the_end_of_this_one() {
        let folder = tempfile::tempdir().unwrap();
        for flag in ["--json", "--plot"] {
            let path = folder.path().join(flag);
            fs::write(&path, "earlier").unwrap();
            output(flag, &path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "earlier");
        }
        let path = folder.path().join("json");
        let output = output("--json", &path).unwrap();
        output.steps(&[]).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("connected"));
        output.idle(7).unwrap();
        let idle: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!((&idle["registered"], &idle["report"]), (&7.into(), &serde_json::Value::Null));
    }
}
