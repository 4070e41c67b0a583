//! What of several logs may be handed on, and in which order. Pure.
//!
//! Logs are read up to a limit each, and up to a moment: beyond the last entry of a log that was cut short by the
//! limit, and beyond what the clock of positions said before the read, entries of other logs must wait, or a connection
//! would be given a position before one that stands earlier.

use herald_bus::Entry;
use herald_wire::{Position, Target};

/// Where a catch-up stands in one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) target: Target,
    /// Everything up to here was handed on, or is not due.
    pub(crate) after: Position,
}

/// A stretch of a log that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) target: Target,
    pub(crate) from: Position,
    pub(crate) to: Position,
}

/// One read of all logs, ready to be handed on.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    /// In order of position.
    pub(crate) entries: Vec<(Target, Entry)>,
    pub(crate) gaps: Vec<Gap>,
    /// Every log was read to its end.
    pub(crate) ended: bool,
}

/// What was read of one log.
#[derive(Debug, Default)]
pub(crate) struct Read {
    pub(crate) entries: Vec<Entry>,
    /// The log's last position, asked before it was read.
    pub(crate) tail: Position,
}

/// Merges what was read after `places`, at most `limit` entries of each log, and moves the places on.
///
/// `clock`: the last position given before the read, where one Redis gives them all; `None` in a cluster, where the
/// order between logs is not promised.
pub(crate) fn merge(places: &mut [Place], reads: Vec<Read>, clock: Option<Position>, limit: usize) -> Merged {
    let mut merged = Merged { ended: true, ..Merged::default() };
    let mut horizon = clock;
    for (place, read) in places.iter().zip(&reads) {
        merged.gaps.extend(gap(place, read));
        if read.entries.len() >= limit {
            merged.ended = false;
            let last = read.entries.last().map(|entry| entry.position);
            horizon = horizon.and_then(|horizon| last.map(|last| horizon.min(last)));
        }
    }
    for (place, read) in places.iter_mut().zip(reads) {
        let due = |position: Position| horizon.is_none_or(|horizon| position <= horizon);
        for entry in read.entries.into_iter().filter(|entry| due(entry.position)) {
            place.after = place.after.max(entry.position);
            merged.entries.push((place.target.clone(), entry));
        }
        place.after = place.after.max(horizon.unwrap_or_default());
    }
    merged.entries.sort_by_key(|(_, entry)| entry.position);
    merged
}

/// Leaves for a later read what goes beyond `bytes_max`; something is handed on all the same. `before`: the places as
/// they were before the merge.
pub(crate) fn cut(merged: &mut Merged, places: &mut [Place], before: &[Place], bytes_max: usize) {
    let mut bytes = 0;
    let fits = |(_, entry): &&(Target, Entry)| {
        bytes += entry.envelope.len();
        bytes <= bytes_max
    };
    let fitting = merged.entries.iter().take_while(fits).count().max(1);
    let Some((_, last)) = merged.entries.get(fitting - 1) else { return };
    let last = last.position;
    // in a cluster two logs can have entries at the same position: both or none
    let kept = merged.entries.partition_point(|(_, entry)| entry.position <= last);
    if kept == merged.entries.len() {
        return;
    }
    merged.entries.truncate(kept);
    merged.ended = false;
    for (place, before) in places.iter_mut().zip(before) {
        place.after = before.after.max(place.after.min(last));
    }
}

/// A log tells of a gap by its first entry, which names the one before it, or by having none where there were some.
/// Nobody misses what came before they first were there.
fn gap(place: &Place, read: &Read) -> Option<Gap> {
    let to = read.entries.first().map_or(read.tail, |first| first.prev);
    let missing = place.after != Position::ZERO && to > place.after;
    missing.then(|| Gap { target: place.target.clone(), from: place.after, to })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn target(name: &str) -> Target {
        Target::group(name, 16).unwrap()
    }

    fn place(name: &str, after: u64) -> Place {
        Place { target: target(name), after: Position(after) }
    }

    fn read(positions: &[u64], first_prev: u64, tail: u64) -> Read {
        let mut prev = first_prev;
        let entry = |&position| {
            let entry = Entry { position: Position(position), prev: Position(prev), envelope: Bytes::new() };
            prev = position;
            entry
        };
        Read { entries: positions.iter().map(entry).collect(), tail: Position(tail) }
    }

    fn positions(merged: &Merged) -> Vec<u64> {
        merged.entries.iter().map(|(_, entry)| entry.position.0).collect()
    }

    #[test]
    fn logs_are_merged_by_position_and_the_places_move_to_the_clock() {
        let mut places = [place("a", 1), place("b", 1)];
        let reads = vec![read(&[2, 5], 1, 5), read(&[3, 9], 1, 9)];
        let merged = merge(&mut places, reads, Some(Position(8)), 10);
        assert_eq!(positions(&merged), [2, 3, 5]);
        assert!(merged.ended && merged.gaps.is_empty());
        assert_eq!(places.map(|p| p.after.0), [8, 8]);
    }

    #[test]
    fn a_log_cut_short_holds_the_others_back() {
        let mut places = [place("a", 1), place("b", 1)];
        let reads = vec![read(&[2, 4], 1, 9), read(&[3, 7], 1, 7)];
        let merged = merge(&mut places, reads, Some(Position(9)), 2);
        assert_eq!(positions(&merged), [2, 3, 4]);
        assert!(!merged.ended);
        assert_eq!(places.map(|p| p.after.0), [4, 4]);
    }

    #[test]
    fn in_a_cluster_each_log_has_a_place_of_its_own() {
        let mut places = [place("a", 1), place("b", 1)];
        let merged = merge(&mut places, vec![read(&[2, 4], 1, 4), read(&[3], 1, 3)], None, 5);
        assert_eq!(positions(&merged), [2, 3, 4]);
        assert_eq!(places.map(|p| p.after.0), [4, 3]);
    }

    #[test]
    fn what_is_gone_is_told_once() {
        for (after, read, gap) in [
            (5, read(&[9], 7, 9), Some((5, 7))),
            (5, read(&[9], 5, 9), None),
            (5, read(&[], 0, 8), Some((5, 8))),
            (5, read(&[], 0, 5), None),
            (5, read(&[9], 0, 9), None),
            (0, read(&[9], 7, 9), None),
        ] {
            let mut places = [place("a", after)];
            let merged = merge(&mut places, vec![read], Some(Position(10)), 5);
            assert_eq!(merged.gaps.first().map(|g| (g.from.0, g.to.0)), gap);
            let again = merge(
                &mut places,
                vec![Read { entries: Vec::new(), tail: Position(9) }],
                Some(Position(10)),
                5,
            );
            assert!(again.gaps.is_empty());
        }
    }

    #[test]
    fn what_is_too_much_at_once_is_read_later() {
        let before = [place("a", 1), place("b", 4)];
        for (bytes_max, kept, after) in [(0, 1, [2, 4]), (10, 1, [2, 4]), (25, 2, [3, 4]), (30, 3, [9, 9])] {
            let mut places = before.clone();
            let mut reads = vec![read(&[2, 3], 1, 3), read(&[8], 4, 8)];
            for entry in reads.iter_mut().flat_map(|read| &mut read.entries) {
                entry.envelope = Bytes::from_static(&[0; 10]);
            }
            let mut merged = merge(&mut places, reads, Some(Position(9)), 5);
            cut(&mut merged, &mut places, &before, bytes_max);
            assert_eq!((merged.entries.len(), merged.ended), (kept, kept == 3), "{bytes_max}");
            assert_eq!(places.map(|place| place.after.0), after);
        }
    }

    proptest! {
        #[test]
        fn reading_page_by_page_hands_on_everything_once_in_order(
            owners in prop::collection::vec(0..3usize, 0..60), limit in 1..5usize, bytes_max in 0..6usize
        ) {
            let mut logs = [const { Vec::new() }; 3];
            for (at, owner) in owners.iter().enumerate() {
                logs[*owner].push(at as u64 + 1);
            }
            let clock = Position(owners.len() as u64);
            let mut places = [place("a", 0), place("b", 0), place("c", 0)];
            let mut got = Vec::new();
            for _ in 0..=owners.len() {
                let reads = places.iter().zip(&logs).map(|(place, log)| {
                    let rest: Vec<u64> = log.iter().copied().filter(|p| *p > place.after.0).take(limit).collect();
                    read(&rest, place.after.0, 0)
                }).collect();
                let before = places.clone();
                let mut merged = merge(&mut places, reads, Some(clock), limit);
                for (_, entry) in &mut merged.entries {
                    entry.envelope = Bytes::from_static(&[0]);
                }
                cut(&mut merged, &mut places, &before, bytes_max);
                got.extend(positions(&merged));
                if merged.ended {
                    break;
                }
            }
            prop_assert_eq!(got, (1..=owners.len() as u64).collect::<Vec<_>>());
        }
    }
}
