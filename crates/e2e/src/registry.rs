//! The registry's gRPC, as a backend asks it.

use std::net::SocketAddr;

use herald_wire::registry::registry_client::RegistryClient;
use herald_wire::registry::{DisconnectRequest, Edge, ListEdgesRequest, LocateRequest, Location};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// A client of one replica.
#[derive(Clone, Debug)]
pub struct Registry(pub RegistryClient<Channel>);

impl Registry {
    /// Connects.
    pub async fn connect(replica: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{replica}")).expect("a URL");
        let channel = endpoint.connect().await;
        Self(RegistryClient::new(channel.unwrap_or_else(|error| panic!("no registry at {replica}: {error}"))))
    }

    /// Who owns these socketIds.
    pub async fn locate(&mut self, socket_ids: &[&str]) -> Vec<Location> {
        let socket_ids = socket_ids.iter().map(|id| (*id).to_owned()).collect();
        self.0.locate(LocateRequest { socket_ids }).await.expect("located").into_inner().locations
    }

    /// The one edge that owns this socketId; `None` when nobody does.
    pub async fn owner(&mut self, socket_id: &str) -> Option<Location> {
        self.locate(&[socket_id]).await.pop()
    }

    /// Every edge whose lease stands, by id.
    pub async fn edges(&mut self) -> Vec<Edge> {
        let mut edges = self.0.list_edges(ListEdgesRequest {}).await.expect("listed").into_inner().edges;
        edges.sort_by(|a, b| a.edge_id.cmp(&b.edge_id));
        edges
    }

    /// Asks to close whoever owns the socketId: the edge that was told.
    ///
    /// # Errors
    /// As the registry answers.
    pub async fn disconnect(&mut self, socket_id: &str, reason: &str) -> Result<String, Status> {
        let request = DisconnectRequest { socket_id: socket_id.into(), reason: reason.into() };
        Ok(self.0.disconnect(request).await?.into_inner().edge_id)
    }
}
