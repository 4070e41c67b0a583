//! `herald-loadtest`: settings in, a run, its report out. What is measured is the library's.

mod output;
mod plot;
mod settings;
mod steps;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use herald_chassis::config::{Stop, parse_with};
use herald_chassis::{BoxError, MiMalloc};
use herald_loadtest::search::Search;
use herald_loadtest::{Load, Scraper};

use output::Output;
use settings::Settings;
use steps::Step;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const FAULTY: u8 = 1;
const MISCONFIGURED: u8 = 2;
/// What was too much is still on its way.
const AFTER_TOO_MUCH: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == herald_loadtest::WORKER) {
        herald_loadtest::raise_open_files();
        return match herald_loadtest::work() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error.to_string()),
        };
    }
    let settings: Settings = match parse_with(std::env::args_os(), Settings::validate) {
        Ok(settings) => settings,
        Err(Stop::Answer(answer)) => {
            let _ = write!(std::io::stdout(), "{answer}");
            return ExitCode::SUCCESS;
        }
        Err(Stop::Problems(problems)) => {
            for line in problems.lines() {
                let _ = writeln!(std::io::stderr(), "herald-loadtest: {line}");
            }
            return MISCONFIGURED.into();
        }
    };
    herald_loadtest::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(run(&settings)),
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(is_good) if is_good || !settings.strict => ExitCode::SUCCESS,
        Ok(_) => FAULTY.into(),
        Err(error) => failed(&error.to_string()),
    }
}

fn failed(why: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "herald-loadtest: {why}");
    FAULTY.into()
}

/// `false` when the report has faults.
async fn run(settings: &Settings) -> Result<bool, BoxError> {
    let mut output = Output::new(settings)?;
    let scraper = Scraper::new(settings.scrape.clone()).await?;
    let plan = settings.plan();
    output.connecting(&plan);
    let (mut load, connected) = Load::connect(plan, settings.patience()).await?;
    output.connected(&connected);
    if !settings.scrape.is_empty() {
        load.scrape(scraper);
    }
    if settings.is_idle() {
        return idle(settings, &mut load, &mut output).await;
    }
    if settings.search {
        return search(settings, &mut load, &mut output).await;
    }
    if !settings.steps.is_empty() {
        return steps(settings, &mut load, &mut output).await;
    }
    let step = round(settings, &mut load, &mut output, settings.rate()).await?;
    output.report(&step, &[])?;
    Ok(step.report.faults().is_empty())
}

async fn round(
    settings: &Settings,
    load: &mut Load,
    output: &mut Output,
    rate: f64,
) -> Result<Step, BoxError> {
    output.watch();
    let mut progress = load.progress();
    let offer = settings.offer(rate);
    let mut running = std::pin::pin!(load.run(&offer));
    let mut second = progress.borrow().second;
    loop {
        tokio::select! {
            report = &mut running => {
                let report = report?;
                return Ok(Step { rate, is_good: None, report, processes: output.usages() });
            }
            changed = progress.changed() => {
                let now = *progress.borrow_and_update();
                if changed.is_ok() && now.second != second {
                    second = now.second;
                    output.progress(&now)?;
                }
            }
        }
    }
}

async fn idle(settings: &Settings, load: &mut Load, output: &mut Output) -> Result<bool, BoxError> {
    output.watch();
    tokio::time::sleep(settings.duration()).await;
    let registered = load.registered().await?;
    output.idle(registered)?;
    Ok(registered == u64::from(settings.plan().cast.clients))
}

async fn search(settings: &Settings, load: &mut Load, output: &mut Output) -> Result<bool, BoxError> {
    let mut search = Search::new(settings.rate(), settings.precision);
    let mut tried: Vec<Step> = Vec::new();
    while let Some(rate) = search.next() {
        let mut step = round(settings, load, output, rate).await?;
        let report = &step.report;
        let is_good =
            report.latency.p99 <= settings.p99_ms && report.faults().is_empty() && !report.has_shed();
        step.is_good = Some(is_good);
        output.step(&step);
        search.tell(rate, is_good);
        tried.push(step);
        if !is_good {
            tokio::time::sleep(AFTER_TOO_MUCH).await;
        }
    }
    let best = tried.iter().rfind(|step| step.is_good == Some(true));
    let Some(best) = best else { return Err("no rate met the objective".into()) };
    output.report(best, &tried)?;
    Ok(true)
}

async fn steps(settings: &Settings, load: &mut Load, output: &mut Output) -> Result<bool, BoxError> {
    let mut steps: Vec<Step> = Vec::new();
    for rate in &settings.steps {
        if steps.last().is_some_and(|step| step.report.account.lost > 0) {
            tokio::time::sleep(AFTER_TOO_MUCH).await;
        }
        let step = round(settings, load, output, *rate).await?;
        output.step(&step);
        steps.push(step);
    }
    output.steps(&steps)?;
    Ok(steps.iter().all(|step| step.report.faults().is_empty()))
}
