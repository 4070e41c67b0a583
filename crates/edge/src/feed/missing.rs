//! Reads from the logs what the feed lost, merged in order of position, a page at a time: what is held at once is
//! bounded however much was lost.

use std::sync::Arc;

use herald_bus::{Bus, BusError};
use herald_wire::{Position, Target};

use crate::catchup::{Merged, Place, Read, merge};
use crate::delivery::Delivery;
use crate::origin::Origins;

/// Channels that are asked about in one pipeline.
pub(super) const TARGETS_AT_ONCE: usize = 1_000;
/// Entries of one log in one read,
const ENTRIES_AT_ONCE: usize = 256;
/// and of all logs together, where that leaves each log one.
const ENTRIES_AT_ONCE_ALL: usize = 16_384;

/// What is missing of some channels, while it is read.
pub(super) struct Missing<'a> {
    bus: &'a Bus,
    origins: &'a Origins,
    places: Vec<Place>,
    tails: Vec<Position>,
    horizon: Option<Position>,
    limit: usize,
    ended: bool,
}

/// Some of what was missing.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// In order of position; a gap stands where what is gone stood.
    pub(super) deliveries: Vec<Arc<Delivery>>,
    /// Channels, and up to where they were read.
    pub(super) reached: Vec<(Target, Position)>,
    pub(super) messages: usize,
    pub(super) gaps: usize,
}

impl<'a> Missing<'a> {
    /// Looks which of these channels' logs hold something beyond these positions, and up to `until` if given.
    pub(super) async fn of(
        (bus, origins): (&'a Bus, &'a Origins),
        from: &[(Target, Position)],
        until: Option<Position>,
    ) -> Result<Self, BusError> {
        let horizon = match until {
            Some(until) => Some(until),
            None => bus.clock().await?,
        };
        let mut missing =
            Self { bus, origins, places: Vec::new(), tails: Vec::new(), horizon, limit: 0, ended: false };
        for some in from.chunks(TARGETS_AT_ONCE) {
            let targets: Vec<Target> = some.iter().map(|(target, _)| target.clone()).collect();
            for ((target, after), tail) in some.iter().zip(bus.tails(&targets).await?) {
                if tail > *after {
                    missing.places.push(Place { target: target.clone(), after: *after });
                    missing.tails.push(tail);
                }
            }
        }
        missing.ended = missing.places.is_empty();
        missing.limit = (ENTRIES_AT_ONCE_ALL / missing.places.len().max(1)).clamp(1, ENTRIES_AT_ONCE);
        Ok(missing)
    }

    /// The next of it; `None` when that was all.
    pub(super) async fn page(&mut self) -> Result<Option<Page>, BusError> {
        if self.ended {
            return Ok(None);
        }
        let mut reads = Vec::with_capacity(self.places.len());
        for (places, tails) in self.places.chunks(TARGETS_AT_ONCE).zip(self.tails.chunks(TARGETS_AT_ONCE)) {
            let from: Vec<_> = places.iter().map(|place| (place.target.clone(), place.after)).collect();
            let logs = self.bus.read_logs(&from, self.limit).await?;
            reads.extend(logs.into_iter().zip(tails).map(|(entries, tail)| Read { entries, tail: *tail }));
        }
        let merged = merge(&mut self.places, reads, self.horizon, self.limit);
        self.ended = merged.ended;
        Ok(Some(self.told(merged)))
    }

    /// Where it stands, to go on from there.
    pub(super) fn places(&self) -> Vec<(Target, Position)> {
        self.places.iter().map(|place| (place.target.clone(), place.after)).collect()
    }

    fn told(&self, merged: Merged) -> Page {
        let mut page = Page { gaps: merged.gaps.len(), ..Page::default() };
        for gap in merged.gaps {
            page.reached.push((gap.target.clone(), gap.to));
            page.deliveries.push(Arc::new(Delivery::gap(gap.target, gap.from, gap.to)));
        }
        for (target, entry) in merged.entries {
            page.reached.push((target.clone(), entry.position));
            if let Ok(delivery) = Delivery::read(target, entry.envelope, self.origins) {
                page.messages += 1;
                page.deliveries.push(Arc::new(delivery));
            }
        }
        page
    }
}
