//! Where the directory lives: in Redis, so that every replica gives the same answers, or in memory for the embedded
//! `herald`. The rules are `directory.rs`'s; who is attached to this replica is not known here.

pub mod memory;
pub mod redis;

use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_wire::registry::{Claim, Edge, Heartbeat, Location, Release};
use tokio::sync::broadcast;

use crate::directory::{Attachment, Eviction, Fenced, Hold};
use crate::event::Event;
use crate::metrics;
use memory::MemoryStore;
use redis::RedisStore;

/// The two places. Cloning is a reference count.
#[derive(Clone)]
pub enum Store {
    /// Shared by replicas, survives them.
    Redis(Arc<RedisStore>),
    /// This process's own.
    Memory(MemoryStore),
}

/// The store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The edge's lease ended, or it attached anew elsewhere: it must attach again.
    #[error("the lease ended, or the edge attached anew")]
    Fenced,
    /// No connection could be had.
    #[error("no connection to Redis: {0}")]
    Pool(#[from] deadpool_redis::PoolError),
    /// Redis said no, or went away.
    #[error("Redis: {0}")]
    Redis(#[from] ::redis::RedisError),
    /// Redis said something else than the scripts do.
    #[error("Redis answered what was not asked: {0}")]
    Answer(#[from] ::redis::ParsingError),
    /// Redis was silent.
    #[error("Redis did not answer within {0:?}")]
    Silent(Duration),
}

impl From<Fenced> for StoreError {
    fn from(Fenced: Fenced) -> Self {
        Self::Fenced
    }
}

/// The edges, as the store knows them.
#[derive(Debug, Default, PartialEq)]
pub struct Edges {
    /// Those whose lease stands.
    pub standing: Vec<Edge>,
    /// Those whose lease ended and that were not swept yet.
    pub lapsed: Vec<String>,
}

/// What replicas tell each other.
pub enum Events {
    /// From the other replicas, and this one.
    Redis(Box<dyn futures_util::Stream<Item = Event> + Send + Unpin>),
    /// From this process.
    Memory(broadcast::Receiver<Event>),
}

impl Events {
    /// The next one; `None` when some may have been lost: listen anew, and audit.
    pub async fn next(&mut self) -> Option<Event> {
        match self {
            Self::Redis(stream) => futures_util::StreamExt::next(stream).await,
            Self::Memory(receiver) => receiver.recv().await.ok(),
        }
    }
}

/// Sends each call to the place the store is, timed and counted by its name.
macro_rules! at {
    ($self:ident, $operation:literal, $store:ident => $call:expr) => {{
        let start = Instant::now();
        let result: Result<_, StoreError> = match $self {
            Store::Redis($store) => $call.await,
            Store::Memory($store) => $call,
        };
        metrics::store_did($operation, start.elapsed(), result.as_ref().err());
        result
    }};
}

/// Every method fails with [`StoreError`] when Redis does, and may be repeated then. In memory only `Fenced` is possible.
#[allow(clippy::missing_errors_doc, reason = "said above once for all")]
impl Store {
    /// An edge says hello. [`Directory::attach`](crate::directory::Directory::attach).
    pub async fn attach(&self, edge_id: &str, address: &str) -> Result<Attachment, StoreError> {
        at!(self, "attach", store => store.attach(edge_id, address))
    }

    /// Renews the lease.
    pub async fn heartbeat(&self, by: &Attachment, beat: &Heartbeat) -> Result<(), StoreError> {
        at!(self, "heartbeat", store => store.heartbeat(by, beat))
    }

    /// Rules on claims; returns who lost what.
    pub async fn claim(&self, by: &Attachment, claims: &[Claim]) -> Result<Vec<Eviction>, StoreError> {
        at!(self, "claim", store => store.claim(by, claims))
    }

    /// Drops what this edge still holds; returns how many that were.
    pub async fn release(&self, by: &Attachment, releases: &[Release]) -> Result<usize, StoreError> {
        at!(self, "release", store => store.release(by, releases))
    }

    /// The edge has been sent these evictions.
    pub async fn told(&self, by: &Attachment, holds: &[Hold]) -> Result<(), StoreError> {
        at!(self, "told", store => store.told(by, holds))
    }

    /// Forgets what the edge did not repeat since it attached; returns how many owners that were.
    pub async fn forget(&self, by: &Attachment) -> Result<usize, StoreError> {
        at!(self, "forget", store => store.forget(by))
    }

    /// Finds evictions that were not told, and makes good lost owners.
    pub async fn audit(&self, by: &Attachment) -> Result<Vec<Eviction>, StoreError> {
        at!(self, "audit", store => store.audit(by))
    }

    /// Removes an edge whose lease ended, with all it owned. `false` when it stands, or another replica did it.
    pub async fn sweep(&self, edge_id: &str) -> Result<bool, StoreError> {
        at!(self, "sweep", store => store.sweep(edge_id))
    }

    /// Who owns these, in the order asked.
    pub async fn locate(&self, socket_ids: &[String]) -> Result<Vec<Location>, StoreError> {
        at!(self, "locate", store => store.locate(socket_ids))
    }

    /// All edges.
    pub async fn edges(&self) -> Result<Edges, StoreError> {
        at!(self, "edges", store => store.edges())
    }

    /// Tells the other replicas. May be lost.
    pub async fn tell(&self, events: &[Event]) -> Result<(), StoreError> {
        at!(self, "tell", store => store.tell(events))
    }

    /// Hears what replicas tell from now on.
    pub async fn listen(&self) -> Result<Events, StoreError> {
        at!(self, "listen", store => store.listen())
    }
}
