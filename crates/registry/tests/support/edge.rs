//! An edge as the registry sees it: a stream with claims up and evictions down.

use herald_wire::registry::edge_message::Kind as Up;
use herald_wire::registry::registry_message::Kind;
use herald_wire::registry::{
    Claim, Claims, Close, EdgeMessage, Evict, Heartbeat, Hello, Pressure, RegistryMessage, Release, Releases,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{PATIENCE, Replica};

pub(crate) struct Edge {
    pub(crate) up: mpsc::Sender<EdgeMessage>,
    down: Streaming<RegistryMessage>,
}

impl Edge {
    /// A stream on which nothing was said yet.
    pub(crate) async fn open(replica: &Replica) -> Result<Self, Status> {
        let (up, messages) = mpsc::channel(64);
        let down = replica.client().attach(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Self { up, down })
    }

    pub(crate) async fn try_attach(replica: &Replica, edge_id: &str) -> Result<Self, Status> {
        let mut edge = Self::open(replica).await?;
        edge.say(Up::Hello(Hello { edge_id: edge_id.into(), address: format!("{edge_id}:8080") })).await;
        match edge.hear().await? {
            Kind::Welcome(welcome) => assert!(welcome.lease_ms > 0),
            other => panic!("no welcome but {other:?}"),
        }
        Ok(edge)
    }

    pub(crate) async fn attach(replica: &Replica, edge_id: &str) -> Self {
        Self::try_attach(replica, edge_id).await.unwrap()
    }

    pub(crate) async fn say(&self, kind: Up) {
        // the stream's end shows where it is read
        let _ = self.up.send(EdgeMessage { kind: Some(kind) }).await;
    }

    pub(crate) async fn claim(&self, socket_id: &str, connection: u64, age_ms: u64) {
        let claim = Claim { socket_id: socket_id.into(), connection, age_ms };
        self.say(Up::Claims(Claims { claims: vec![claim] })).await;
    }

    pub(crate) async fn release(&self, socket_id: &str, connection: u64) {
        let release = Release { socket_id: socket_id.into(), connection };
        self.say(Up::Releases(Releases { releases: vec![release] })).await;
    }

    pub(crate) async fn beat(&self, lateness_us: u64) {
        let pressure =
            Pressure { edge_id: String::new(), lateness_us, fullness_permille: 500, ..Pressure::default() };
        self.say(Up::Heartbeat(Heartbeat { connections: 3, sessions: 4, pressure: Some(pressure) })).await;
    }

    /// What the registry says next.
    pub(crate) async fn hear(&mut self) -> Result<Kind, Status> {
        match timeout(PATIENCE, self.down.message()).await.unwrap() {
            Ok(Some(message)) => Ok(message.kind.unwrap()),
            Ok(None) => Err(Status::ok("the stream ended")),
            Err(status) => Err(status),
        }
    }

    pub(crate) async fn evicted(&mut self) -> Evict {
        match self.hear().await.unwrap() {
            Kind::Evict(evict) => evict,
            other => panic!("no eviction but {other:?}"),
        }
    }

    pub(crate) async fn closed(&mut self) -> Close {
        match self.hear().await.unwrap() {
            Kind::Close(close) => close,
            other => panic!("no close but {other:?}"),
        }
    }

    pub(crate) async fn ended(&mut self) -> Status {
        loop {
            if let Err(status) = self.hear().await {
                return status;
            }
        }
    }
}
