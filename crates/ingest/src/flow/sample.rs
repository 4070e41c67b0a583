//! Asks Redis now and then how much it holds back for the edges' feeds.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use herald_bus::{Bus, BusError};
use herald_chassis::Shutdown;
use tokio::sync::watch;

use super::backlog::Backlogs;

/// Between two questions, ...
const ASK_EVERY: Duration = Duration::from_millis(500);
/// ... or this many times as long as one took, where Redis has very many subscribers.
const PAUSE_FACTOR: u32 = 20;
/// After a refusal: whoever administers Redis may not let us list its clients.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// Until the process drains. Where Redis does not say, nothing is held back as far as is known.
pub(super) async fn run(
    bus: Bus,
    measures: watch::Sender<u64>,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let mut backlogs = Backlogs::default();
    let mut pause = ASK_EVERY;
    loop {
        tokio::select! {
            biased;
            () = shutdown.soft() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        let asked_at = Instant::now();
        let answer = bus.feed_backlogs().await;
        pause = ASK_EVERY.max(asked_at.elapsed() * PAUSE_FACTOR);
        let list = answer.unwrap_or_else(|error| {
            if matches!(error, BusError::Refused { .. }) {
                tracing::info!(
                    "Redis does not tell how far feeds are behind; edges tell themselves: {error}"
                );
                pause = REFUSED_PAUSE;
            }
            Vec::new()
        });
        measures.send_replace(backlogs.worst(Instant::now(), list));
    }
}
