//! Accepts connections, and ends them in good order: at SIGTERM the edge says not-ready, lets go of its clients a few
//! at a time, so that the edges they come back to are not overrun, and stops.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use herald_chassis::{Context, Shutdown};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::client::Services;
use crate::config::ClientConfig;
use crate::http::{self, Elsewhere};
use crate::hub::{CloseReason, Signal};
use crate::metrics;
use crate::transport::PollingSessions;

/// A client that has not sent its request by then is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest request head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Between the steps of a drain.
const DRAIN_STEP: Duration = Duration::from_millis(50);
/// After a failed accept (no file descriptor is left, say) the next is tried a little later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What every request is served with. Cloning is a few reference counts.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) services: Arc<Services>,
    pub(crate) elsewhere: Option<Elsewhere>,
    pub(crate) polling: PollingSessions,
    pub(crate) ctx: Context,
    inner: Shutdown,
    clients: Arc<AtomicUsize>,
}

/// One client's place among those allowed; dropped when it is gone.
pub(crate) struct Place(Arc<AtomicUsize>, ::metrics::Gauge);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        self.1.decrement(1.0);
    }
}

impl Server {
    pub(crate) fn new(
        config: ClientConfig,
        (services, elsewhere): (Arc<Services>, Option<Elsewhere>),
        ctx: Context,
        inner: Shutdown,
    ) -> Self {
        Self {
            config: Arc::new(config),
            services,
            elsewhere,
            polling: PollingSessions::default(),
            ctx,
            inner,
            clients: Arc::default(),
        }
    }

    /// A place for one more client; `None` when there are as many as allowed, or the edge drains.
    pub(crate) fn place(&self, transport: &'static str) -> Option<Place> {
        let admitted = self.clients.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
            (n < self.config.max_connections).then_some(n + 1)
        });
        if admitted.is_err() || self.ctx.shutdown.is_draining() {
            if admitted.is_ok() {
                self.clients.fetch_sub(1, Ordering::Relaxed);
            }
            metrics::refused("too_many_connections");
            return None;
        }
        let open = metrics::opened(transport);
        open.increment(1.0);
        Some(Place(self.clients.clone(), open))
    }

    /// Serves until the shutdown, and drains.
    pub(crate) async fn run(self, listener: TcpListener) -> Result<(), Infallible> {
        loop {
            tokio::select! {
                () = self.ctx.shutdown.soft() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.accept(stream),
                    Err(e) => {
                        metrics::refused("accept_failed");
                        tracing::warn!("cannot accept a connection: {e}");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        tokio::select! {
            () = self.ctx.shutdown.hard() => {}
            () = self.drain() => {}
        }
        self.inner.force();
        Ok(())
    }

    fn accept(&self, stream: TcpStream) {
        // one message at a time must not wait for the answer to the one before (Nagle's algorithm)
        let _ = stream.set_nodelay(true);
        let server = self.clone();
        self.ctx.tasks.track("http connection", async move {
            let stopping = server.inner.clone();
            let service = service_fn(move |request| http::serve(server.clone(), request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            tokio::select! {
                () = stopping.hard() => {}
                // how a client leaves is its own business
                _ = connection => {}
            }
        });
    }

    /// Lets go of all clients, spread over the time configured.
    async fn drain(&self) {
        let clients = self.services.keeper.connections();
        let steps = (self.config.drain.as_millis() / DRAIN_STEP.as_millis()).max(1) as usize;
        let at_once = clients.len().div_ceil(steps).max(1);
        tracing::info!(clients = clients.len(), "draining");
        for some in clients.chunks(at_once) {
            some.iter().for_each(|client| client.signal(Signal::Close(CloseReason::Draining)));
            sleep(DRAIN_STEP).await;
        }
        while self.clients.load(Ordering::Relaxed) > 0 {
            sleep(DRAIN_STEP).await;
        }
    }
}
