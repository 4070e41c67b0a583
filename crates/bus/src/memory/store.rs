//! Logs, subscriptions and what is remembered beside them. Time goes in as microseconds, messages come out on the
//! queues of those who subscribed; nothing here looks at a clock, waits, or locks.
//!
//! Everything is bounded: a log by count and age, all logs together by [`LOG_BYTES_MAX`], remembered `message_id`s by
//! [`SEEN_MAX`]; past those the oldest go first.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use herald_wire::envelope::Place;
use herald_wire::{Position, Target};

use super::Reader;
use super::expiring::Expiring;
use crate::{Entry, LogConfig, Publication, Published};

/// Bytes of envelopes that all logs together hold.
const LOG_BYTES_MAX: usize = 256 << 20;
/// `message_id`s that are remembered.
const SEEN_MAX: usize = 1_000_000;

#[derive(Debug)]
pub(super) struct Store {
    config: LogConfig,
    /// The last position given.
    clock: Position,
    channels: HashMap<Target, Channel, foldhash::fast::RandomState>,
    /// All entries of all logs by age, and some that are gone already.
    ages: VecDeque<(Position, Target)>,
    entries: usize,
    log_bytes: usize,
    seen: HashSet<Seen, foldhash::fast::RandomState>,
    seen_ages: VecDeque<(u64, Seen)>,
    next_sweep_us: u64,
    pub(super) sessions: Expiring<String, Bytes>,
    pub(super) sent: Expiring<Target, Position>,
    pub(super) holders: Expiring<Target, String>,
}

type Seen = (Target, Arc<str>);

#[derive(Debug, Default)]
struct Channel {
    log: VecDeque<Entry>,
    last: Position,
    readers: Vec<Reader>,
}

impl Store {
    pub(super) fn new(config: LogConfig) -> Self {
        Self {
            config,
            clock: Position::ZERO,
            channels: HashMap::default(),
            ages: VecDeque::new(),
            entries: 0,
            log_bytes: 0,
            seen: HashSet::default(),
            seen_ages: VecDeque::new(),
            next_sweep_us: 0,
            sessions: Expiring::new(),
            sent: Expiring::new(),
            holders: Expiring::new(),
        }
    }

    pub(super) fn clock(&self) -> Position {
        self.clock
    }

    pub(super) fn publish(&mut self, publication: &Publication, now_us: u64) -> Published {
        self.expire(now_us);
        if let Some(message_id) = &publication.message_id
            && !self.remember((publication.target.clone(), message_id.clone()), now_us)
        {
            return Published::Duplicate;
        }
        if publication.reliable {
            let entry = self.append(publication, now_us);
            self.send(&publication.target, &entry.envelope);
            Published::Logged(entry.position)
        } else {
            Published::Sent { receivers: self.send(&publication.target, &publication.envelope) }
        }
    }

    pub(super) fn read_log(&self, target: &Target, after: Position, limit: usize) -> Vec<Entry> {
        let Some(channel) = self.channels.get(target) else { return Vec::new() };
        let from = channel.log.partition_point(|entry| entry.position <= after);
        channel.log.iter().skip(from).take(limit).cloned().collect()
    }

    pub(super) fn read_log_back(&self, target: &Target, upto: Position, limit: usize) -> Vec<Entry> {
        let Some(channel) = self.channels.get(target) else { return Vec::new() };
        let end = channel.log.partition_point(|entry| entry.position <= upto);
        channel.log.range(..end).rev().take(limit).cloned().collect()
    }

    pub(super) fn tail(&self, target: &Target) -> Position {
        self.channels.get(target).map(|channel| channel.last).unwrap_or_default()
    }

    pub(super) fn subscribe(&mut self, target: &Target, reader: &Reader) {
        let readers = &mut self.channels.entry(target.clone()).or_default().readers;
        if !readers.iter().any(|held| held.is(reader)) {
            readers.push(reader.clone());
        }
    }

    pub(super) fn unsubscribe(&mut self, target: &Target, reader: &Reader) {
        if let Some(channel) = self.channels.get_mut(target) {
            channel.readers.retain(|held| !held.is(reader));
            if channel.readers.is_empty() && channel.last == Position::ZERO {
                self.channels.remove(target);
            }
        }
    }

    /// Forgets what is too old.
    pub(super) fn expire(&mut self, now_us: u64) {
        while let Some((ends_us, _)) = self.seen_ages.front() {
            if *ends_us > now_us && self.seen_ages.len() <= SEEN_MAX {
                break;
            }
            if let Some((_, seen)) = self.seen_ages.pop_front() {
                self.seen.remove(&seen);
            }
        }
        let oldest_kept = Position(now_us).earlier_by(micros(self.config.age));
        while let Some((position, _)) = self.ages.front() {
            if *position >= oldest_kept && self.log_bytes <= LOG_BYTES_MAX {
                break;
            }
            if let Some((position, target)) = self.ages.pop_front() {
                self.forget_entry(&target, position);
            }
        }
        if now_us >= self.next_sweep_us {
            self.sweep(now_us);
        }
    }

    fn append(&mut self, publication: &Publication, now_us: u64) -> Entry {
        self.clock = Position(now_us.max(self.clock.0 + 1));
        let channel = self.channels.entry(publication.target.clone()).or_default();
        let entry = Entry::new(&publication.envelope, Place { position: self.clock, prev: channel.last });
        channel.last = entry.position;
        channel.log.push_back(entry.clone());
        self.entries += 1;
        self.log_bytes += entry.envelope.len();
        self.ages.push_back((entry.position, publication.target.clone()));
        if channel.log.len() > self.config.entries_max {
            self.trim(&publication.target);
        }
        entry
    }

    fn trim(&mut self, target: &Target) {
        let Some(channel) = self.channels.get_mut(target) else { return };
        if let Some(gone) = channel.log.pop_front() {
            self.entries -= 1;
            self.log_bytes -= gone.envelope.len();
        }
        // half of `ages` names entries that are gone: each rebuild is paid for by as many appends
        if self.ages.len() > 2 * self.entries + 1_024 {
            let channels = &self.channels;
            self.ages.retain(|(position, target)| {
                let first = channels.get(target).and_then(|channel| channel.log.front());
                first.is_some_and(|first| first.position <= *position)
            });
        }
    }

    fn forget_entry(&mut self, target: &Target, position: Position) {
        let Some(channel) = self.channels.get_mut(target) else { return };
        if let Some(gone) = channel.log.pop_front_if(|first| first.position == position) {
            self.entries -= 1;
            self.log_bytes -= gone.envelope.len();
        }
    }

    /// Drops channels of which nothing is left to know.
    fn sweep(&mut self, now_us: u64) {
        let age = self.config.last_ttl();
        let oldest_kept = Position(now_us).earlier_by(micros(age));
        self.channels.retain(|_, channel| {
            channel.readers.retain(|reader| !reader.queue.is_closed());
            if channel.last < oldest_kept {
                channel.last = Position::ZERO;
            }
            channel.last != Position::ZERO || !channel.readers.is_empty()
        });
        self.next_sweep_us = now_us.saturating_add(micros(age / 16));
    }

    fn send(&mut self, target: &Target, envelope: &Bytes) -> u64 {
        let Some(channel) = self.channels.get_mut(target) else { return 0 };
        channel
            .readers
            .retain(|reader| reader.queue.message(&reader.source, target.clone(), envelope.clone()));
        channel.readers.len() as u64
    }

    /// False when it was remembered already.
    fn remember(&mut self, seen: Seen, now_us: u64) -> bool {
        if !self.seen.insert(seen.clone()) {
            return false;
        }
        self.seen_ages.push_back((now_us.saturating_add(micros(self.config.dedup_window)), seen));
        true
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn store(entries_max: usize) -> Store {
        let config =
            LogConfig { entries_max, age: Duration::from_secs(10), dedup_window: Duration::from_secs(2) };
        Store::new(config)
    }

    fn reliable(target: &str) -> Publication {
        Publication {
            target: Target::socket(target, 64).unwrap(),
            envelope: Bytes::from_static(b"x"),
            reliable: true,
            message_id: None,
        }
    }

    #[test]
    fn the_clock_may_step_back() {
        let mut store = store(10);
        let first = store.publish(&reliable("a"), 100);
        let second = store.publish(&reliable("b"), 50);
        assert_eq!((first, second), (Published::Logged(Position(100)), Published::Logged(Position(101))));
    }

    #[test]
    fn entries_end_at_their_age_and_the_last_position_at_twice_that() {
        let mut store = store(10);
        let target = Target::socket("a", 64).unwrap();
        store.publish(&reliable("a"), SECOND);
        store.expire(10 * SECOND);
        assert_eq!(store.read_log(&target, Position::ZERO, 9).len(), 1);
        store.expire(11 * SECOND + 1);
        assert_eq!(store.read_log(&target, Position::ZERO, 9).len(), 0);
        assert_eq!(store.tail(&target), Position(SECOND));
        store.expire(60 * SECOND);
        assert_eq!(store.tail(&target), Position::ZERO);
        assert!(store.channels.is_empty());
        assert_eq!((store.entries, store.log_bytes, store.ages.len()), (0, 0, 0));
    }

    #[test]
    fn what_a_busy_log_trimmed_leaves_nothing_behind() {
        let mut store = store(10);
        for n in 0..100_000 {
            store.publish(&reliable("a"), n);
        }
        assert_eq!(store.entries, 10);
        assert!(store.ages.len() < 2_048);
        let left = store.read_log(&reliable("a").target, Position::ZERO, 99);
        assert_eq!(store.log_bytes, left.iter().map(|entry| entry.envelope.len()).sum::<usize>());
    }

    #[test]
    fn an_id_is_forgotten_after_the_window() {
        let mut store = store(10);
        let message = Publication { message_id: Some("m".into()), ..reliable("a") };
        assert!(matches!(store.publish(&message, SECOND), Published::Logged(_)));
        assert_eq!(store.publish(&message, 3 * SECOND - 1), Published::Duplicate);
        assert!(matches!(store.publish(&message, 3 * SECOND), Published::Logged(_)));
        assert_eq!(store.seen_ages.len(), 1);
    }
}
