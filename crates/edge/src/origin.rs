//! Which life of the data on Redis positions belong to, for cursors.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use herald_bus::Bus;
use herald_wire::{Cursor, Epoch, Position, Target};
use tokio::sync::Notify;

/// Cloning is a reference count.
#[derive(Clone)]
pub(crate) struct Origins {
    bus: Bus,
    epoch: Arc<AtomicU32>,
    told: Arc<Notify>,
}

impl Origins {
    pub(crate) fn new(bus: Bus) -> Self {
        Self { bus, epoch: Arc::default(), told: Arc::default() }
    }

    /// What Redis said after an interruption, since its data may be another's.
    pub(crate) fn set(&self, epoch: Epoch) {
        self.epoch.store(epoch.0, Ordering::Release);
        self.told.notify_waiters();
    }

    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// Waits until Redis has said it for the first time: no cursor can be made before.
    pub(crate) async fn known(&self) -> Epoch {
        loop {
            let told = self.told.notified();
            let epoch = self.epoch();
            if epoch != Epoch::default() {
                return epoch;
            }
            told.await;
        }
    }

    /// The cursor of a position that this target's log gave.
    pub(crate) fn cursor(&self, target: &Target, position: Position) -> Cursor {
        Cursor { epoch: self.epoch(), slot: self.bus.slot_of(target), position, mailbox: None }
    }
}
