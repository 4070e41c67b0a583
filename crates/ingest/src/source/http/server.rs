//! Accepts connections and speaks HTTP/1.1 on them. What a request means is the intake's.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use herald_chassis::{Context, Shutdown};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::Intake;

/// How long a connection may take to send a request's head, and to begin the next request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// After a failure to accept, most likely for want of file descriptors: at once again would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the process drains; connections finish the request they are in.
pub(crate) async fn serve(listener: TcpListener, intake: Intake, ctx: Context) -> Result<(), Infallible> {
    let places = Arc::new(Semaphore::new(intake.0.config.connections_max));
    loop {
        // never closed, so this waits for a place and nothing else
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let accepted = tokio::select! {
            biased;
            () = ctx.shutdown.soft() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let serving = connection(stream, intake.clone(), ctx.shutdown.clone());
                ctx.tasks.track("http connection", async move {
                    serving.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "HERALD_LISTEN cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, intake: Intake, shutdown: Shutdown) {
    // small answers must not wait for an acknowledgement; a socket that refuses it still works
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let intake = intake.clone();
        async move { Ok::<_, Infallible>(intake.answer(request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        biased;
        () = shutdown.soft() => serving.as_mut().graceful_shutdown(),
        ended = serving.as_mut() => return log(ended),
    }
    tokio::select! {
        biased;
        () = shutdown.hard() => {}
        ended = serving => log(ended),
    }
}

fn log(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}
