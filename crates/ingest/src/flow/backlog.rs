//! Which of Redis' output buffers for feeds show that an edge falls behind. Pure.
//!
//! A buffer that fills and is emptied again belongs to an edge that reads; what it holds is a queue that nobody at the
//! edge can see. One that only grows, or stands, belongs to an edge that is frozen or gone: ingest must not stand
//! still with it. Its lease ends, Redis closes it sooner or later, and what it missed is in the logs.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use herald_bus::FeedBacklog;

/// A buffer that has not shrunk for this long counts no more: the time of a lease.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was seen of each.
#[derive(Debug, Default)]
pub(crate) struct Backlogs {
    known: HashMap<String, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    bytes: u64,
    /// When it was last less than before, or nothing.
    shrunk_at: Instant,
}

impl Backlogs {
    /// The largest of those that count.
    pub(crate) fn worst(&mut self, now: Instant, list: Vec<FeedBacklog>) -> u64 {
        let before = std::mem::take(&mut self.known);
        for FeedBacklog { connection, bytes } in list {
            let shrunk_at = match before.get(&connection) {
                Some(seen) if bytes > 0 && bytes >= seen.bytes => seen.shrunk_at,
                _ => now,
            };
            self.known.insert(connection, Seen { bytes, shrunk_at });
        }
        let live = self.known.values().filter(|seen| now.duration_since(seen.shrunk_at) < PATIENCE);
        live.map(|seen| seen.bytes).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(sizes: &[(&str, u64)]) -> Vec<FeedBacklog> {
        let backlog =
            |(name, bytes): &(&str, u64)| FeedBacklog { connection: (*name).to_owned(), bytes: *bytes };
        sizes.iter().map(backlog).collect()
    }

    #[test]
    fn the_largest_counts_until_it_is_known_to_be_dead() {
        let mut backlogs = Backlogs::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(backlogs.worst(at(0), list(&[("live", 5), ("frozen", 9)])), 9);
        assert_eq!(backlogs.worst(at(6), list(&[("live", 4), ("frozen", 9)])), 9);
        assert_eq!(backlogs.worst(at(10), list(&[("live", 6), ("frozen", 20)])), 6);
        // it reads again
        assert_eq!(backlogs.worst(at(11), list(&[("live", 0), ("frozen", 19)])), 19);
        assert_eq!(backlogs.worst(at(12), list(&[])), 0);
        assert!(backlogs.known.is_empty());
    }
}
