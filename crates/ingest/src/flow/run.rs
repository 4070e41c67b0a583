//! The controller's clock: takes a step when something new is heard and ten times a second, and says what is going on.

use std::convert::Infallible;
use std::time::Duration;

use herald_chassis::{Readiness, Shutdown};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::controller::Cause;
use super::{Flow, Heard, Step, words};
use crate::metrics::FlowMetrics;

/// Steps, unless news come sooner.
const STEP_EVERY: Duration = Duration::from_millis(100);
/// However often pressure comes and goes, the log hears of it no oftener; and while it lasts, this often.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// What the clock works with.
pub(super) struct Loop {
    pub(super) flow: Flow,
    pub(super) heard: watch::Receiver<Option<Heard>>,
    pub(super) backlog: watch::Receiver<u64>,
    pub(super) readiness: Readiness,
    pub(super) metrics: FlowMetrics,
}

/// What the log was told.
#[derive(Default)]
struct Told {
    at: Option<Instant>,
    pressed: Option<Cause>,
}

impl Loop {
    pub(super) async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        let mut ticks = interval(STEP_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Told::default();
        let mut why = String::new();
        loop {
            tokio::select! {
                biased;
                // the drain goes on at the last pace
                () = shutdown.soft() => return Ok(()),
                _ = ticks.tick() => {}
                Ok(()) = self.heard.changed() => {}
            }
            let heard = self.heard.borrow_and_update().clone();
            let step = self.flow.step(heard.as_ref(), *self.backlog.borrow());
            self.metrics.stepped(&step.readings, step.stepped, step.pressed);
            self.metrics.window.set(step.window);
            self.metrics.pace.set(step.pace);
            self.metrics.tolerated.set(step.tolerated.as_secs_f64());
            // what was the matter, not how it is while less passes
            if let Some(cause) = step.stepped.congested {
                why = words::why(cause, &step.readings, heard.as_ref());
            }
            let sentence = words::sentence(&step, &why, heard.is_some());
            told.log(&step, &sentence);
            self.readiness.note("flow", sentence);
        }
    }
}

impl Told {
    fn log(&mut self, step: &Step, sentence: &str) {
        if (step.pressed.is_none() && self.pressed.is_none())
            || self.at.is_some_and(|at| at.elapsed() < LOG_EVERY)
        {
            return;
        }
        match step.pressed {
            Some(_) => tracing::warn!(window = step.window as u64, "{sentence}"),
            None => tracing::info!(window = step.window as u64, "pressure is over: {sentence}"),
        }
        (self.at, self.pressed) = (Some(Instant::now()), step.pressed);
    }
}
