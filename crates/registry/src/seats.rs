//! Which edges are attached to this replica, and the inbox of each. Knows neither store nor gRPC streams.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use herald_wire::registry::RegistryMessage;
use tokio::sync::{Notify, mpsc};

use crate::directory::Attachment;
use crate::event::Event;
use crate::metrics::Metrics;

/// Messages from elsewhere that wait for an edge; beyond, they are dropped, and an audit makes them good.
pub(crate) const INBOX_MAX: usize = 4_096;

/// All seats of a replica. Cloning is a reference count.
#[derive(Clone)]
pub(crate) struct Seats {
    taken: Arc<Mutex<HashMap<String, Entry>>>,
    metrics: Metrics,
}

struct Entry {
    number: u64,
    inbox: mpsc::Sender<RegistryMessage>,
    audit: Arc<Notify>,
}

/// An attached edge's seat, given up when dropped.
pub(crate) struct Seat {
    seats: Seats,
    by: Attachment,
    /// What others have for it; closed when the edge attached anew to this replica.
    pub(crate) inbox: mpsc::Receiver<RegistryMessage>,
    /// Somebody thinks that something was lost.
    pub(crate) audit: Arc<Notify>,
}

impl Seats {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { taken: Arc::default(), metrics }
    }

    /// Seats an edge. An earlier stay of it loses its seat.
    pub(crate) fn take(&self, by: Attachment) -> Seat {
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        let audit = Arc::new(Notify::new());
        let entry = Entry { number: by.number, inbox: sender, audit: audit.clone() };
        let mut taken = self.lock();
        taken.insert(by.edge_id.clone(), entry);
        self.metrics.attached_edges.set(taken.len() as f64);
        drop(taken);
        Seat { seats: self.clone(), by, inbox, audit }
    }

    /// Hands an event to its edge; gives it back when that edge has no seat here.
    pub(crate) fn deliver(&self, event: Event) -> Option<Event> {
        let taken = self.lock();
        let Some(entry) = taken.get(&event.edge_id) else { return Some(event) };
        if entry.inbox.try_send(event.message).is_err() {
            self.metrics.inbox_full.increment(1);
            entry.audit.notify_one();
        }
        None
    }

    /// Events may have been lost: every edge here is audited.
    pub(crate) fn audit_all(&self) {
        for entry in self.lock().values() {
            entry.audit.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        if taken.get(&self.by.edge_id).is_some_and(|entry| entry.number == self.by.number) {
            taken.remove(&self.by.edge_id);
        }
        self.seats.metrics.attached_edges.set(taken.len() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(number: u64) -> Attachment {
        Attachment { edge_id: "e".into(), number }
    }

    fn event() -> Event {
        Event { edge_id: "e".into(), ..Event::probe() }
    }

    #[tokio::test]
    async fn the_latest_stay_has_the_seat() {
        let seats = Seats::new(Metrics::new());
        assert_eq!(seats.deliver(event()), Some(event()));
        let mut old = seats.take(by(1));
        let mut new = seats.take(by(2));
        assert!(old.inbox.recv().await.is_none());
        drop(old);
        assert_eq!(seats.deliver(event()), None);
        assert!(new.inbox.recv().await.is_some());
        drop(new);
        assert_eq!(seats.deliver(event()), Some(event()));
    }

    #[tokio::test]
    async fn a_full_inbox_asks_for_an_audit() {
        let seats = Seats::new(Metrics::new());
        let seat = seats.take(by(1));
        for _ in 0..=INBOX_MAX {
            assert_eq!(seats.deliver(event()), None);
        }
        seat.audit.notified().await;
    }
}
