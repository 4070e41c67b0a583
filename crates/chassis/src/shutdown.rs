//! The end of a process in two stages, and the tasks that must see it. Signals belong to `run`.
//!
//! Soft: stop accepting, finish what is begun. Hard, a grace later: let go of what is left.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::run::{BoxError, chain};

/// How long tasks may take to end once the hard stage began.
pub const HARD_GRACE: Duration = Duration::from_secs(1);

/// The two stages, as every task sees them. Cloning is a reference count.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
}

impl Shutdown {
    /// Neither stage has begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins the soft stage.
    pub fn begin(&self) {
        self.soft.cancel();
    }

    /// Begins the hard stage, and the soft one if it has not begun.
    pub fn force(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }

    /// Whether the soft stage has begun.
    pub fn is_draining(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// Resolves when the soft stage begins.
    pub async fn soft(&self) {
        self.soft.cancelled().await;
    }

    /// Resolves when the hard stage begins.
    pub async fn hard(&self) {
        self.hard.cancelled().await;
    }

    /// The soft stage as a token, for child tokens and `run_until_cancelled`.
    pub fn soft_token(&self) -> &CancellationToken {
        &self.soft
    }

    /// The hard stage as a token.
    pub fn hard_token(&self) -> &CancellationToken {
        &self.hard
    }
}

/// The tasks of a process: a drain waits for every one of them. Cloning is a reference count.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: Shutdown,
    death: Arc<OnceLock<Death>>,
}

/// A task that ended though it should not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// The name it was spawned under.
    pub task: String,
    /// What became of it.
    pub cause: String,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} {}", self.task, self.cause)
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every task ended within the soft stage.
    Soft,
    /// Some ended only in the hard stage.
    Hard,
    /// This many did not end at all.
    Stuck(usize),
}

impl Tasks {
    /// No tasks yet; a death begins the soft stage of `shutdown`.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { tracker: TaskTracker::new(), shutdown, death: Arc::default() }
    }

    /// The stages these tasks see.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Spawns a task that lives as long as the process. Its end before the soft stage, in whatever way, ends the
    /// process with a non-zero code; so does an error or a panic while draining.
    pub fn spawn<F, E>(&self, name: impl Into<String>, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let guard = Vital { task: name.into(), tasks: self.clone(), ended: false };
        self.tracker.spawn(async move {
            let mut guard = guard;
            let result = future.await.map_err(Into::into);
            guard.end(result);
        });
    }

    /// Spawns a task that may end at any time, such as one per connection. A panic in it is logged and counted, and
    /// takes nobody else down.
    pub fn track<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let guard = Expendable { task: name };
        // not an async block: it would hold the future twice, and there is one task for each connection
        self.tracker.spawn(future.map(move |()| drop(guard)));
    }

    /// How many tasks live.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task lives.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// The first task that ended though it should not have.
    pub fn death(&self) -> Option<&Death> {
        self.death.get()
    }

    /// Begins the soft stage, waits up to `grace` for all tasks, then begins the hard stage and waits up to
    /// [`HARD_GRACE`]. [`Shutdown::force`] from elsewhere cuts the grace short.
    pub async fn drain(&self, grace: Duration) -> Drained {
        self.tracker.close();
        self.shutdown.begin();
        tokio::select! {
            // the hard stage first: tasks that it ended did not end by themselves
            biased;
            () = self.shutdown.hard() => {}
            () = self.tracker.wait() => return Drained::Soft,
            () = tokio::time::sleep(grace) => {}
        }
        self.shutdown.force();
        match tokio::time::timeout(HARD_GRACE, self.tracker.wait()).await {
            Ok(()) => Drained::Hard,
            Err(_) => Drained::Stuck(self.tracker.len()),
        }
    }

    fn died(&self, task: &str, cause: String) {
        let death = Death { task: task.to_owned(), cause };
        tracing::error!(task, "{death}");
        // only the first is the cause: the others may have died of it
        let _ = self.death.set(death);
        self.shutdown.begin();
    }
}

/// Tells a panic from an end: dropped before `end`, the task panicked or the runtime is going away.
struct Vital {
    task: String,
    tasks: Tasks,
    ended: bool,
}

impl Vital {
    fn end(&mut self, result: Result<(), BoxError>) {
        self.ended = true;
        match result {
            Err(error) => self.tasks.died(&self.task, format!("failed: {}", chain(&*error))),
            Ok(()) if !self.tasks.shutdown.is_draining() => {
                self.tasks.died(&self.task, "ended though nobody asked it to".to_owned());
            }
            Ok(()) => tracing::debug!(task = self.task, "task drained"),
        }
    }
}

impl Drop for Vital {
    fn drop(&mut self) {
        if !self.ended && std::thread::panicking() {
            count_panic(&self.task);
            self.tasks.died(&self.task, "panicked".to_owned());
        }
    }
}

struct Expendable {
    task: &'static str,
}

impl Drop for Expendable {
    fn drop(&mut self) {
        if std::thread::panicking() {
            count_panic(self.task);
            tracing::error!(task = self.task, "task panicked; the others go on");
        }
    }
}

fn count_panic(task: &str) {
    metrics::counter!("herald_task_panics_total", "task" => task.to_owned()).increment(1);
}
