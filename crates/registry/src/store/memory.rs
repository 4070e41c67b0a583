//! The directory in this process's memory, with a clock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use herald_wire::registry::{Claim, Heartbeat, Location, Release};
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::{Edges, Events, StoreError};
use crate::directory::{Attachment, Directory, Eviction, Hold};
use crate::event::Event;

/// Events a listener may be behind; beyond, it loses the oldest, and audits.
pub const EVENTS_MAX: usize = 4_096;

/// Cloning is a reference count: clones share the directory, as replicas share a Redis.
#[derive(Clone)]
pub struct MemoryStore {
    directory: Arc<Mutex<Directory>>,
    events: broadcast::Sender<Event>,
    started: Instant,
    started_ms: u64,
}

impl MemoryStore {
    /// An empty directory whose leases last this long.
    pub fn new(lease: Duration) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            directory: Arc::new(Mutex::new(Directory::new(millis(lease)))),
            events: broadcast::Sender::new(EVENTS_MAX),
            started: Instant::now(),
            started_ms: millis(wall),
        }
    }

    // wall clock at the start, steady from there on
    fn now_ms(&self) -> u64 {
        self.started_ms + millis(self.started.elapsed())
    }

    fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn attach(&self, edge_id: &str, address: &str) -> Result<Attachment, StoreError> {
        Ok(self.directory().attach(self.now_ms(), edge_id, address))
    }

    pub(super) fn heartbeat(&self, by: &Attachment, beat: &Heartbeat) -> Result<(), StoreError> {
        Ok(self.directory().heartbeat(self.now_ms(), by, beat)?)
    }

    pub(super) fn claim(&self, by: &Attachment, claims: &[Claim]) -> Result<Vec<Eviction>, StoreError> {
        Ok(self.directory().claim(self.now_ms(), by, claims)?)
    }

    pub(super) fn release(&self, by: &Attachment, releases: &[Release]) -> Result<usize, StoreError> {
        Ok(self.directory().release(self.now_ms(), by, releases)?)
    }

    pub(super) fn told(&self, by: &Attachment, holds: &[Hold]) -> Result<(), StoreError> {
        self.directory().told(by, holds);
        Ok(())
    }

    pub(super) fn forget(&self, by: &Attachment) -> Result<usize, StoreError> {
        Ok(self.directory().forget(by))
    }

    pub(super) fn audit(&self, by: &Attachment) -> Result<Vec<Eviction>, StoreError> {
        Ok(self.directory().audit(self.now_ms(), by)?)
    }

    pub(super) fn sweep(&self, edge_id: &str) -> Result<bool, StoreError> {
        Ok(self.directory().sweep(self.now_ms(), edge_id).is_some())
    }

    pub(super) fn locate(&self, socket_ids: &[String]) -> Result<Vec<Location>, StoreError> {
        Ok(self.directory().locate(self.now_ms(), socket_ids))
    }

    pub(super) fn edges(&self) -> Result<Edges, StoreError> {
        let (standing, lapsed) = self.directory().edges(self.now_ms());
        Ok(Edges { standing, lapsed })
    }

    pub(super) fn tell(&self, events: &[Event]) -> Result<(), StoreError> {
        for event in events {
            // nobody listening is nobody to tell
            let _ = self.events.send(event.clone());
        }
        Ok(())
    }

    pub(super) fn listen(&self) -> Result<Events, StoreError> {
        Ok(Events::Memory(self.events.subscribe()))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
