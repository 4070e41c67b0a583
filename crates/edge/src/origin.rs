//! Which life of the data on Redis positions belong to, for cursors.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use herald_bus::{Bus, BusError};
use herald_wire::{Cursor, Epoch, Position, Target};

/// Cloning is a reference count.
#[derive(Clone)]
pub(crate) struct Origins {
    bus: Bus,
    epoch: Arc<AtomicU32>,
}

impl Origins {
    pub(crate) fn new(bus: Bus) -> Self {
        Self { bus, epoch: Arc::default() }
    }

    /// Asks Redis anew; after every interruption, since its data may be another's.
    pub(crate) async fn refresh(&self) -> Result<(), BusError> {
        let epoch = self.bus.epoch().await?;
        self.epoch.store(epoch.0, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Relaxed))
    }

    /// The cursor of a position that this target's log gave.
    pub(crate) fn cursor(&self, target: &Target, position: Position) -> Cursor {
        Cursor { epoch: self.epoch(), slot: self.bus.slot_of(target), position, mailbox: None }
    }
}
