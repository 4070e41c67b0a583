//! The gRPC service: checks what comes in, asks the store, answers. The contract is `registry.proto`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::{self, BoxStream};
use herald_wire::registry::registry_server::Registry;
use herald_wire::registry::{
    Close, DisconnectRequest, DisconnectResponse, Edge, EdgeMessage, ListEdgesRequest, ListEdgesResponse,
    LocateRequest, LocateResponse, Pressure, WatchPressureRequest,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

use crate::down::{DownStream, down};
use crate::event::Event;
use crate::stay::unavailable;
use crate::{Replica, bottleneck, check, metrics, stay};

/// Edges that may be attached to one replica.
pub(crate) const ATTACHED_MAX: usize = 4_096;
/// WatchPressure streams of one replica.
pub(crate) const WATCHERS_MAX: usize = 1_024;
/// A watcher hears at least this often.
pub(crate) const PRESSURE_EVERY: Duration = Duration::from_secs(1);

/// The service of one replica.
pub(crate) struct Service {
    replica: Arc<Replica>,
    pressure: watch::Receiver<Option<Pressure>>,
    attached: Arc<Semaphore>,
    watchers: Arc<Semaphore>,
}

impl Service {
    pub(crate) fn new(replica: Arc<Replica>, pressure: watch::Receiver<Option<Pressure>>) -> Self {
        Self {
            replica,
            pressure,
            attached: Arc::new(Semaphore::new(ATTACHED_MAX)),
            watchers: Arc::new(Semaphore::new(WATCHERS_MAX)),
        }
    }

    async fn locate(&self, request: LocateRequest) -> Result<LocateResponse, Box<Status>> {
        check::socket_ids(&request.socket_ids, &self.replica.options.limits)?;
        let locations = self.replica.store.locate(&request.socket_ids).await.map_err(|e| unavailable(&e))?;
        Ok(LocateResponse { locations })
    }

    async fn list_edges(&self) -> Result<ListEdgesResponse, Box<Status>> {
        let edges = self.replica.store.edges().await.map_err(|error| unavailable(&error))?;
        let explain = |edge: Edge| Edge { pressure: Some(bottleneck::explained(&edge)), ..edge };
        Ok(ListEdgesResponse { edges: edges.standing.into_iter().map(explain).collect() })
    }

    async fn disconnect(&self, request: DisconnectRequest) -> Result<DisconnectResponse, Box<Status>> {
        let DisconnectRequest { socket_id, reason } = request;
        check::disconnect(&socket_id, &reason, &self.replica.options.limits)?;
        let asked = std::slice::from_ref(&socket_id);
        let found = self.replica.store.locate(asked).await.map_err(|error| unavailable(&error))?;
        let Some(owner) = found.into_iter().next() else {
            return Err(Box::new(Status::not_found(format!("nobody owns the socketId {socket_id}"))));
        };
        let close = Close { socket_id, connection: owner.connection, reason };
        self.replica
            .ask_to_close(Event::close(owner.edge_id.clone(), close))
            .await
            .map_err(|e| unavailable(&e))?;
        Ok(DisconnectResponse { edge_id: owner.edge_id })
    }

    fn pressures(&self, place: OwnedSemaphorePermit) -> impl Stream<Item = Result<Pressure, Status>> + use<> {
        let (replica, pressure) = (self.replica.clone(), self.pressure.clone());
        replica.metrics.watchers.increment(1.0);
        let watcher = Watcher { replica, pressure, first: true, _place: place };
        stream::unfold(Some(watcher), async |watcher| {
            let mut watcher = watcher?;
            let told = watcher.next().await;
            let goes_on = told.is_ok();
            Some((told, goes_on.then_some(watcher)))
        })
    }
}

struct Watcher {
    replica: Arc<Replica>,
    pressure: watch::Receiver<Option<Pressure>>,
    first: bool,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    async fn next(&mut self) -> Result<Pressure, Status> {
        if !std::mem::take(&mut self.first) {
            tokio::select! {
                () = self.replica.shutdown.soft() => {
                    return Err(Status::unavailable("this registry is draining: watch another"));
                }
                // a change or the time, whichever is first; the sender's end shows as no value
                _ = timeout(PRESSURE_EVERY, self.pressure.changed()) => {}
            }
        }
        let known = self.pressure.borrow_and_update().clone();
        known.ok_or_else(|| Status::unavailable("the registry's store does not answer: pressure is unknown"))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.replica.metrics.watchers.decrement(1.0);
    }
}

#[tonic::async_trait]
impl Registry for Service {
    type AttachStream = DownStream;
    type WatchPressureStream = BoxStream<'static, Result<Pressure, Status>>;

    async fn attach(&self, request: Request<Streaming<EdgeMessage>>) -> Result<Response<DownStream>, Status> {
        let place = self.attached.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{ATTACHED_MAX} edges are attached here: attach to another registry"
            ))
        })?;
        let (down, stream) = down();
        let replica = self.replica.clone();
        self.replica.tasks.track("registry-stay", async move {
            stay::serve(replica, request.into_inner(), down).await;
            drop(place);
        });
        Ok(Response::new(stream))
    }

    async fn locate(&self, request: Request<LocateRequest>) -> Result<Response<LocateResponse>, Status> {
        answer("Locate", self.locate(request.into_inner()).await)
    }

    async fn list_edges(&self, _: Request<ListEdgesRequest>) -> Result<Response<ListEdgesResponse>, Status> {
        answer("ListEdges", self.list_edges().await)
    }

    async fn watch_pressure(
        &self,
        _: Request<WatchPressureRequest>,
    ) -> Result<Response<Self::WatchPressureStream>, Status> {
        let place = self.watchers.clone().try_acquire_owned().map_err(|_| {
            Box::new(Status::resource_exhausted(format!("{WATCHERS_MAX} watch here: watch another registry")))
        });
        answer(
            "WatchPressure",
            place.map(|place| -> Self::WatchPressureStream { Box::pin(self.pressures(place)) }),
        )
    }

    async fn disconnect(
        &self,
        request: Request<DisconnectRequest>,
    ) -> Result<Response<DisconnectResponse>, Status> {
        answer("Disconnect", self.disconnect(request.into_inner()).await)
    }
}

fn answer<T>(method: &'static str, answer: Result<T, Box<Status>>) -> Result<Response<T>, Status> {
    let answer = answer.map_err(|status| *status);
    metrics::answered(method, &answer);
    answer.map(Response::new)
}
