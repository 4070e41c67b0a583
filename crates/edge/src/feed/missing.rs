//! Reads from the logs what the feed lost, merged in order of position.

use std::sync::Arc;

use herald_bus::{Bus, BusError};
use herald_wire::{Position, Target};

use crate::delivery::Delivery;
use crate::origin::Origins;

/// Channels whose last positions are asked at once.
const TARGETS_AT_ONCE: usize = 1_000;
/// Entries of one log in one read.
const ENTRIES_AT_ONCE: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Missing {
    /// In order of position; a gap stands where what is gone stood.
    pub(super) deliveries: Vec<Arc<Delivery>>,
    /// Each channel that had something, and up to where it was read.
    pub(super) reached: Vec<(Target, Position)>,
    pub(super) messages: usize,
    pub(super) gaps: usize,
}

/// Reads what these channels' logs hold beyond these positions, and up to `until` if given.
pub(super) async fn read(
    bus: &Bus,
    origins: &Origins,
    from: &[(Target, Position)],
    until: Option<Position>,
) -> Result<Missing, BusError> {
    let mut missing = Missing::default();
    let mut placed: Vec<(Position, Delivery)> = Vec::new();
    for some in from.chunks(TARGETS_AT_ONCE) {
        let targets: Vec<Target> = some.iter().map(|(target, _)| target.clone()).collect();
        let tails = bus.tails(&targets).await?;
        for ((target, after), tail) in some.iter().zip(tails).filter(|((_, after), tail)| tail > after) {
            let reached =
                read_one(bus, origins, (target, *after, until.unwrap_or(tail)), &mut placed).await?;
            missing.reached.push((target.clone(), reached));
        }
    }
    placed.sort_by_key(|(position, _)| *position);
    missing.gaps = placed.iter().filter(|(_, delivery)| delivery.is_gap()).count();
    missing.messages = placed.len() - missing.gaps;
    missing.deliveries = placed.into_iter().map(|(_, delivery)| Arc::new(delivery)).collect();
    Ok(missing)
}

async fn read_one(
    bus: &Bus,
    origins: &Origins,
    (target, mut after, until): (&Target, Position, Position),
    placed: &mut Vec<(Position, Delivery)>,
) -> Result<Position, BusError> {
    let begun = after;
    loop {
        let entries = bus.read_log(target, after, ENTRIES_AT_ONCE).await?;
        let is_last = entries.len() < ENTRIES_AT_ONCE;
        let first_prev = entries.first().map_or(until, |first| first.prev);
        if after == begun && begun != Position::ZERO && first_prev > begun {
            placed.push((begun, Delivery::gap(target.clone(), begun, first_prev)));
        }
        for entry in entries {
            if entry.position > until {
                return Ok(until.max(begun));
            }
            after = entry.position;
            if let Ok(delivery) = Delivery::read(target.clone(), entry.envelope, origins) {
                placed.push((entry.position, delivery));
            }
        }
        if is_last {
            return Ok(until.max(after));
        }
    }
}
