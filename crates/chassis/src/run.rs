//! The one shape of every `main`: parse, telemetry, admin port, start, drain, exit code.

use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Common, Settings, Stop, parse};
use crate::shutdown::{Drained, Shutdown, Tasks};
use crate::telemetry::Metrics;
use crate::{Readiness, admin, listen, process, telemetry};

/// Any error: what a service's start may fail with.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Something went wrong while running: at the start, in a task, or in the drain.
const FAILED: u8 = 1;
/// The settings are wrong.
const MISCONFIGURED: u8 = 2;

/// Which program this is, for `--version`, logs and `herald_build_info`.
#[derive(Clone, Copy, Debug)]
pub struct Binary {
    /// Its file name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
}

/// What a service gets from the process it runs in. Cloning is a few reference counts.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// When to stop.
    pub shutdown: Shutdown,
    /// Where to spawn.
    pub tasks: Tasks,
    /// Where to say whether it can work.
    pub readiness: Readiness,
}

impl Context {
    /// A context of its own, for tests and for [`run()`].
    pub fn new() -> Self {
        let shutdown = Shutdown::new();
        Self { tasks: Tasks::new(shutdown.clone()), shutdown, readiness: Readiness::new() }
    }
}

/// Runs a program. `start` binds its ports and spawns its tasks (one service's or several) on the context, and
/// returns; the process lives until a signal, or until one of those tasks ends.
///
/// Exit codes: 0 after a signal and a drain, 1 when the start or a task failed or a task would not end, 2 when the
/// settings are wrong (one line each on stderr).
pub fn run<S, F>(binary: Binary, start: F) -> ExitCode
where
    S: Settings,
    F: AsyncFnOnce(S, Context) -> Result<(), BoxError>,
{
    let settings: S = match parse(std::env::args_os()) {
        Ok(settings) => settings,
        Err(stop) => return told(binary, stop),
    };
    let common = settings.common().clone();
    if common.check_health {
        return health(common.admin_listen);
    }
    match prepare(&common) {
        Ok((runtime, metrics)) => runtime.block_on(live(binary, (settings, common), metrics, start)),
        Err(error) => {
            say(format_args!("{}: {}", binary.name, chain(&*error)));
            FAILED.into()
        }
    }
}

fn prepare(common: &Common) -> Result<(tokio::runtime::Runtime, Metrics), BoxError> {
    let metrics = telemetry::init(common)?;
    process::raise_open_files();
    process::keep_pages_small();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok((runtime, metrics))
}

async fn live<S, F>(binary: Binary, (settings, common): (S, Common), metrics: Metrics, start: F) -> ExitCode
where
    F: AsyncFnOnce(S, Context) -> Result<(), BoxError>,
{
    let ctx = Context::new();
    match started(binary, settings, &common, (metrics, ctx.clone()), start).await {
        Ok(()) => ended(&ctx, &common).await,
        Err(error) => {
            tracing::error!("{} cannot start: {}", binary.name, chain(&*error));
            FAILED.into()
        }
    }
}

async fn started<S, F>(
    binary: Binary,
    settings: S,
    common: &Common,
    (metrics, ctx): (Metrics, Context),
    start: F,
) -> Result<(), BoxError>
where
    F: AsyncFnOnce(S, Context) -> Result<(), BoxError>,
{
    let Binary { name, version } = binary;
    metrics::describe_gauge!("herald_build_info", "1, labelled with what runs here");
    metrics::gauge!("herald_build_info", "service" => name, "version" => version).set(1.0);
    metrics::describe_counter!("herald_task_panics_total", "Panics of tasks, by the task's name");
    let running = ctx.readiness.condition("running", "starting");
    let listener = listen("HERALD_ADMIN_LISTEN", common.admin_listen)?;
    let admin = listener.local_addr()?;
    tokio::spawn(admin::serve(listener, ctx.readiness.clone(), metrics.clone()));
    tokio::spawn(metrics.upkeep());
    signals(&ctx.shutdown)?;
    start(settings, ctx.clone()).await?;
    tracing::info!(%admin, version, "{name} runs");
    running.ready();
    Ok(())
}

/// Waits for the end, drains, and decides the exit code.
async fn ended(ctx: &Context, common: &Common) -> ExitCode {
    ctx.shutdown.soft().await;
    ctx.readiness.condition("running", "").not_ready("draining");
    let drained = ctx.tasks.drain(common.shutdown_grace).await;
    match drained {
        Drained::Soft => tracing::info!("drained"),
        Drained::Hard => tracing::warn!(grace = ?common.shutdown_grace, "drained, the last of it by force"),
        Drained::Stuck(tasks) => tracing::error!(tasks, "tasks did not end; leaving them"),
    }
    match (ctx.tasks.death(), drained) {
        (Some(death), _) => {
            tracing::error!("ending with code {FAILED}, because {death}");
            FAILED.into()
        }
        (None, Drained::Stuck(_)) => FAILED.into(),
        (None, Drained::Soft | Drained::Hard) => ExitCode::SUCCESS,
    }
}

/// The first signal begins the drain, the second one cuts it short.
fn signals(shutdown: &Shutdown) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if shutdown.is_draining() {
                tracing::warn!("{name} again: ending at once");
                shutdown.force();
            } else {
                tracing::info!("{name}: draining");
                shutdown.begin();
            }
        }
    });
    Ok(())
}

fn told(binary: Binary, stop: Stop) -> ExitCode {
    match stop {
        Stop::Answer(text) => {
            // nobody is left to tell if stdout is closed
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Stop::Problems(problems) => {
            for line in problems.lines() {
                say(format_args!("{}: {line}", binary.name));
            }
            MISCONFIGURED.into()
        }
    }
}

fn health(admin: SocketAddr) -> ExitCode {
    match admin::check_health(admin) {
        Ok((ready, answer)) => {
            say(format_args!("{answer}"));
            if ready { ExitCode::SUCCESS } else { FAILED.into() }
        }
        Err(error) => {
            say(format_args!("nobody answers on {admin}: {error}"));
            FAILED.into()
        }
    }
}

fn say(what: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // many errors repeat their source already
        if !line.contains(&cause_text) {
            line.push_str(": ");
            line.push_str(&cause_text);
        }
        source = cause.source();
    }
    line
}
