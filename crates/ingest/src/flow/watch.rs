//! Hears from the registry how the worst edge is.

use std::convert::Infallible;
use std::time::Duration;

use herald_chassis::{Backoff, Shutdown};
use herald_wire::registry::registry_client::RegistryClient;
use herald_wire::registry::{Pressure, WatchPressureRequest};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::Endpoint;

use super::Heard;
use super::controller::Edges;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The registry says something every second: after this long without, nobody knows how the edges are.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Why nothing is heard.
#[derive(Debug, thiserror::Error)]
enum Unheard {
    #[error("cannot reach the registry: {0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("the registry answered: {0}")]
    Status(#[from] tonic::Status),
    #[error("the registry ended the stream")]
    Ended,
    #[error("the registry was silent for {SILENCE_MAX:?}")]
    Silent(#[from] tokio::time::error::Elapsed),
}

/// Watches until the process drains; says `None` while nothing is heard.
pub(super) async fn run(
    endpoint: Endpoint,
    says: watch::Sender<Option<Heard>>,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT);
    let mut backoff = Backoff::EAGER;
    loop {
        let unheard = tokio::select! {
            biased;
            () = shutdown.soft() => return Ok(()),
            Err(unheard) = listen(&endpoint, &says, &mut backoff) => unheard,
        };
        if says.send_replace(None).is_some() {
            tracing::warn!("it is not known how the edges are, the window stands still: {unheard}");
        } else {
            tracing::debug!("still not known how the edges are: {unheard}");
        }
        if !backoff.wait(&shutdown).await {
            return Ok(());
        }
    }
}

async fn listen(
    endpoint: &Endpoint,
    says: &watch::Sender<Option<Heard>>,
    backoff: &mut Backoff,
) -> Result<Infallible, Unheard> {
    let channel = endpoint.connect().await?;
    let mut registry = RegistryClient::new(channel);
    let watching = registry.watch_pressure(WatchPressureRequest {});
    let mut stream = timeout(SILENCE_MAX, watching).await??.into_inner();
    loop {
        let pressure = timeout(SILENCE_MAX, stream.message()).await??.ok_or(Unheard::Ended)?;
        backoff.reset();
        if says.send_replace(Some(heard(pressure))).is_none() {
            tracing::info!("the registry says how the edges are");
        }
    }
}

fn heard(pressure: Pressure) -> Heard {
    let lateness = Duration::from_micros(pressure.lateness_us);
    let edges = Edges { lateness, fullness_permille: pressure.fullness_permille };
    Heard { edges, bottleneck: pressure.bottleneck }
}
