//! A map whose entries end. Time goes in as microseconds; nothing here looks at a clock.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Expiring<K, V> {
    entries: HashMap<K, Held<V>, foldhash::fast::RandomState>,
    /// Ended entries are swept when the map has grown to this many: twice what was left by the last sweep.
    sweep_at: usize,
}

#[derive(Debug)]
struct Held<V> {
    value: V,
    ends_us: u64,
}

const SWEEP_AT_MIN: usize = 1_024;

impl<K: Eq + Hash, V> Expiring<K, V> {
    pub(super) fn new() -> Self {
        Self { entries: HashMap::default(), sweep_at: SWEEP_AT_MIN }
    }

    pub(super) fn put(&mut self, key: K, value: V, now_us: u64, ttl: Duration) {
        self.entries.insert(key, Held { value, ends_us: end(now_us, ttl) });
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|_, held| held.ends_us > now_us);
            self.sweep_at = SWEEP_AT_MIN.max(self.entries.len() * 2);
        }
    }

    pub(super) fn get<Q>(&self, key: &Q, now_us: u64) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries.get(key).filter(|held| held.ends_us > now_us).map(|held| &held.value)
    }

    /// Whether there is such an entry.
    pub(super) fn touch<Q>(&mut self, key: &Q, now_us: u64, ttl: Duration) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let held = self.entries.get_mut(key).filter(|held| held.ends_us > now_us);
        held.map(|held| held.ends_us = end(now_us, ttl)).is_some()
    }
}

fn end(now_us: u64, ttl: Duration) -> u64 {
    now_us.saturating_add(u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn an_entry_ends_and_can_be_kept_longer_but_not_revived() {
        let mut map = Expiring::new();
        map.put("a", 1, 0, Duration::from_secs(1));
        assert_eq!(map.get("a", SECOND - 1), Some(&1));
        map.touch("a", SECOND - 1, Duration::from_secs(1));
        assert_eq!(map.get("a", SECOND), Some(&1));
        assert_eq!(map.get("a", 2 * SECOND - 1), None);
        map.touch("a", 2 * SECOND, Duration::from_secs(9));
        assert_eq!(map.get("a", 2 * SECOND), None);
    }

    #[test]
    fn what_ended_does_not_pile_up() {
        let mut map = Expiring::new();
        for n in 0..100_000_u64 {
            map.put(n, (), n * SECOND, Duration::from_secs(10));
        }
        assert!(map.entries.len() <= SWEEP_AT_MIN);
    }
}
