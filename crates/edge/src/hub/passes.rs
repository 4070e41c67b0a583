//! Follows messages through one shard's outboxes: a message has passed when every outbox that waited when it was appended
//! had its turn to be written. What that took is the socket's part of its latency. Without what the shard rested on
//! purpose, and what so many writes take at best, it is the hub's part of the edge's lateness: a slower ingest would
//! shorten neither. Knows no clock; time goes in.

use std::collections::VecDeque;
use std::time::Duration;

use metrics::{Counter, Histogram};
use tokio::time::Instant;

use crate::metrics::HubMetrics;
use crate::pressure::Lateness;

/// What one write of a pass may take, measured where more is to be written than the processors can, with others that want
/// them too; undisturbed it is 6 µs. So a pass over thousands of outboxes is no lateness: when it counted, ingest slowed
/// down to a third with 10,000 clients, and nothing came sooner.
const WRITE_ALLOWED: Duration = Duration::from_micros(40);
/// Messages followed at one time in each queue; those beyond are not, and counted.
const FOLLOWED_MAX: usize = 4_096;

/// The messages that have not passed, for each of the shard's two queues of outboxes.
#[derive(Debug)]
pub(super) struct Passes {
    lateness: Lateness,
    write: Histogram,
    unfollowed: Counter,
    queues: [Queue; 2],
}

#[derive(Debug, Default)]
struct Queue {
    followed: VecDeque<Followed>,
    /// Outboxes that had their turn, ever.
    turns: u64,
}

/// A moment in the life of a queue of outboxes: the time, and for how long its shard had rested by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: Instant,
    pub(super) rested: Duration,
}

#[derive(Debug)]
struct Followed {
    received: Instant,
    appended: Moment,
    /// Outboxes that waited.
    waited: u32,
    /// It has passed after so many turns.
    until: u64,
}

impl Passes {
    pub(super) fn new(lateness: Lateness, metrics: &HubMetrics) -> Self {
        let HubMetrics { write, unfollowed, .. } = metrics.clone();
        Self { lateness, write, unfollowed, queues: Default::default() }
    }

    /// A message received then was appended now; so many outboxes wait in this queue.
    pub(super) fn appended(&mut self, queue: usize, received: Instant, appended: Moment, waiting: usize) {
        let queue = &mut self.queues[queue];
        if waiting == 0 {
            return;
        }
        if queue.followed.len() == FOLLOWED_MAX {
            self.unfollowed.increment(1);
            return;
        }
        let until = queue.turns + waiting as u64;
        let waited = u32::try_from(waiting).unwrap_or(u32::MAX);
        queue.followed.push_back(Followed { received, appended, waited, until });
    }

    /// So many outboxes of this queue had their turn.
    pub(super) fn turned(&mut self, queue: usize, count: usize, turned: Moment) {
        let queue = &mut self.queues[queue];
        queue.turns += count as u64;
        while queue.followed.front().is_some_and(|first| first.until <= queue.turns) {
            let Some(Followed { received, appended, waited, .. }) = queue.followed.pop_front() else { break };
            self.write.record(turned.now.duration_since(appended.now));
            let allowed = WRITE_ALLOWED * waited + turned.rested.saturating_sub(appended.rested);
            self.lateness.handed_on(turned.now.duration_since(received).saturating_sub(allowed));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(now: Instant) -> Moment {
        Moment { now, rested: Duration::ZERO }
    }

    fn passes() -> (Lateness, Passes) {
        let lateness = Lateness::new();
        (lateness.clone(), Passes::new(lateness, &HubMetrics::new()))
    }

    #[test]
    fn a_message_is_late_until_every_outbox_that_waited_had_its_turn() {
        let (lateness, mut passes) = passes();
        let start = Instant::now();
        passes.appended(1, start, at(start + 30 * MS), 2);
        passes.turned(1, 1, at(start + 30 * MS));
        assert_eq!(lateness.take_hub_worst(), Duration::ZERO);
        // what is appended meanwhile does not prolong it
        passes.appended(1, start + 90 * MS, at(start + 90 * MS), 5_000);
        passes.turned(1, 1, at(start + 100 * MS));
        assert_eq!(lateness.take_hub_worst(), 100 * MS - 2 * WRITE_ALLOWED);
        passes.turned(1, 1, at(start + 100 * MS));
        assert_eq!(lateness.take_hub_worst(), Duration::ZERO);
    }

    #[test]
    fn what_a_broadcast_takes_at_best_is_no_lateness() {
        let (lateness, mut passes) = passes();
        let start = Instant::now();
        passes.appended(1, start, at(start), 15_000);
        passes.turned(1, 15_000, at(start + 590 * MS));
        assert_eq!(lateness.take_hub_worst(), Duration::ZERO);
    }

    #[test]
    fn what_the_shard_rested_on_purpose_is_none() {
        let (lateness, mut passes) = passes();
        let start = Instant::now();
        passes.appended(0, start, Moment { now: start, rested: 10 * MS }, 1);
        passes.turned(0, 1, Moment { now: start + 50 * MS, rested: 40 * MS });
        assert_eq!(lateness.take_hub_worst(), 20 * MS - WRITE_ALLOWED);
    }

    #[test]
    fn those_beyond_the_most_are_not_followed_but_counted() {
        let unfollowed = Arc::<AtomicU64>::default();
        let lateness = Lateness::new();
        let mut metrics = HubMetrics::new();
        metrics.unfollowed = Counter::from_arc(unfollowed.clone());
        let mut passes = Passes::new(lateness.clone(), &metrics);
        let start = Instant::now();
        for _ in 0..FOLLOWED_MAX {
            passes.appended(0, start, at(start), 1);
        }
        assert_eq!(unfollowed.load(Ordering::Relaxed), 0);
        passes.appended(0, start, at(start), 1);
        passes.appended(0, start, at(start), 1);
        // nothing waits: there is nothing to follow
        passes.appended(0, start, at(start), 0);
        // the other queue has room
        passes.appended(1, start, at(start), 1);
        assert_eq!(unfollowed.load(Ordering::Relaxed), 2);
        assert_eq!(passes.queues[0].followed.len(), FOLLOWED_MAX);
        passes.turned(0, 1, at(start + MS));
        assert_eq!((passes.queues[0].followed.len(), lateness.take_hub_worst()), (0, MS - WRITE_ALLOWED));
    }
}
