//! Who on this edge needs which channel. Pure: it says what to subscribe to, what to unsubscribe from, and whom to tell.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use foldhash::fast::RandomState;
use herald_wire::Target;
use slab::Slab;
use tokio::time::Instant;

/// Somebody waits until all of its channels are subscribed to.
#[derive(Debug)]
struct Waiter<W> {
    missing: usize,
    tell: W,
}

#[derive(Debug)]
struct Entry {
    users: u32,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// To be subscribed to, or about to be; these wait for it.
    Wanted(Vec<usize>),
    Subscribed,
    /// About to be unsubscribed from.
    Leaving,
}

/// The next command for Redis.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Subscribe(Vec<Target>),
    Unsubscribe(Vec<Target>),
}

/// `W` is whatever is told when all channels of one request are subscribed to.
#[derive(Debug)]
pub(super) struct Table<W> {
    linger: Duration,
    entries: HashMap<Target, Entry, RandomState>,
    waiters: Slab<Waiter<W>>,
    wanted: Vec<Target>,
    lingering: VecDeque<(Instant, Target)>,
}

impl<W> Table<W> {
    pub(super) fn new(linger: Duration) -> Self {
        Self {
            linger,
            entries: HashMap::default(),
            waiters: Slab::new(),
            wanted: Vec::new(),
            lingering: VecDeque::new(),
        }
    }

    /// One user more for each target. Hands `tell` back when nothing is missing.
    pub(super) fn acquire(&mut self, targets: Vec<Target>, tell: W) -> Option<W> {
        let waiter = self.waiters.vacant_key();
        let mut missing = 0;
        for target in targets {
            let entry = self.entries.entry(target.clone()).or_insert_with(|| {
                self.wanted.push(target.clone());
                Entry { users: 0, state: State::Wanted(Vec::new()) }
            });
            entry.users += 1;
            match &mut entry.state {
                State::Subscribed => {}
                State::Wanted(waiting) => {
                    waiting.push(waiter);
                    missing += 1;
                }
                State::Leaving => {
                    // the unsubscription is on its way: subscribe again behind it
                    entry.state = State::Wanted(vec![waiter]);
                    self.wanted.push(target);
                    missing += 1;
                }
            }
        }
        if missing == 0 {
            return Some(tell);
        }
        self.waiters.insert(Waiter { missing, tell });
        None
    }

    /// One user less for each target. The last one's channel is kept for a while, for whoever comes back.
    pub(super) fn release(&mut self, targets: &[Target], now: Instant) {
        for target in targets {
            let Some(entry) = self.entries.get_mut(target) else { continue };
            entry.users = entry.users.saturating_sub(1);
            if entry.users == 0 {
                self.lingering.push_back((now + self.linger, target.clone()));
            }
        }
    }

    /// When a channel's linger ends.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.lingering.front().map(|(due, _)| *due)
    }

    /// What to tell Redis next, at most `max` channels. The step must be [`Table::done`] before the next is asked for.
    pub(super) fn step(&mut self, now: Instant, max: usize) -> Option<Step> {
        if !self.wanted.is_empty() {
            return Some(Step::Subscribe(self.wanted.drain(..max.min(self.wanted.len())).collect()));
        }
        let mut leaving = Vec::new();
        while leaving.len() < max {
            let Some((_, target)) = self.lingering.pop_front_if(|(due, _)| *due <= now) else { break };
            if let Some(entry) = self.entries.get_mut(&target)
                && entry.users == 0
                && entry.state == State::Subscribed
            {
                entry.state = State::Leaving;
                leaving.push(target);
            }
        }
        (!leaving.is_empty()).then_some(Step::Unsubscribe(leaving))
    }

    /// Redis confirmed the step. Returns whom to tell.
    pub(super) fn done(&mut self, step: &Step) -> Vec<W> {
        let mut tell = Vec::new();
        match step {
            Step::Subscribe(targets) => {
                for target in targets {
                    let Some(entry) = self.entries.get_mut(target) else { continue };
                    let State::Wanted(waiting) = std::mem::replace(&mut entry.state, State::Subscribed)
                    else {
                        continue;
                    };
                    for waiter in waiting {
                        let one = &mut self.waiters[waiter];
                        one.missing -= 1;
                        if one.missing == 0 {
                            tell.push(self.waiters.remove(waiter).tell);
                        }
                    }
                }
            }
            Step::Unsubscribe(targets) => {
                for target in targets {
                    if self.entries.get(target).is_some_and(|entry| entry.state == State::Leaving) {
                        self.entries.remove(target);
                    }
                }
            }
        }
        tell
    }

    /// Redis did not confirm the step: it is to be taken again.
    pub(super) fn failed(&mut self, step: Step, now: Instant) {
        match step {
            Step::Subscribe(targets) => self.wanted.extend(targets),
            Step::Unsubscribe(targets) => {
                for target in targets {
                    if let Some(entry) = self.entries.get_mut(&target).filter(|e| e.state == State::Leaving) {
                        entry.state = State::Subscribed;
                        self.lingering.push_back((now + self.linger, target));
                    }
                }
            }
        }
    }

    /// How many channels are subscribed to, or wanted.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINGER: Duration = Duration::from_secs(10);

    fn targets(names: &[&str]) -> Vec<Target> {
        names.iter().map(|name| Target::group(name, 16).unwrap()).collect()
    }

    #[test]
    fn one_subscription_serves_many_and_all_are_told() {
        let (mut table, now) = (Table::new(LINGER), Instant::now());
        assert_eq!(table.acquire(targets(&["a", "b"]), 1), None);
        assert_eq!(table.acquire(targets(&["a"]), 2), None);
        let step = table.step(now, 100).unwrap();
        assert_eq!(step, Step::Subscribe(targets(&["a", "b"])));
        assert_eq!(table.acquire(targets(&["b"]), 3), None);
        assert_eq!(table.done(&step), [2, 1, 3]);
        assert_eq!(table.acquire(targets(&["a", "b"]), 4), Some(4));
        assert_eq!(table.step(now, 100), None);
    }

    #[test]
    fn the_last_user_s_channel_lingers() {
        let (mut table, now) = (Table::new(LINGER), Instant::now());
        table.acquire(targets(&["a"]), ());
        let step = table.step(now, 100).unwrap();
        table.done(&step);
        table.release(&targets(&["a"]), now);
        assert_eq!(table.step(now, 100), None);
        assert_eq!(table.acquire(targets(&["a"]), ()), Some(()));
        assert_eq!(table.step(now + LINGER, 100), None);
        table.release(&targets(&["a"]), now);
        let step = table.step(now + LINGER, 100).unwrap();
        assert_eq!(step, Step::Unsubscribe(targets(&["a"])));
        // somebody comes back while Redis is being told
        assert_eq!(table.acquire(targets(&["a"]), ()), None);
        assert!(table.done(&step).is_empty());
        assert_eq!(table.step(now, 100), Some(Step::Subscribe(targets(&["a"]))));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_failed_step_is_taken_again() {
        let (mut table, now) = (Table::new(LINGER), Instant::now());
        table.acquire(targets(&["a", "b", "c"]), 7);
        let step = table.step(now, 2).unwrap();
        table.failed(step, now);
        let (mut told, mut steps) = (Vec::new(), 0);
        while let Some(step) = table.step(now, 2) {
            told.extend(table.done(&step));
            steps += 1;
        }
        assert_eq!((told, steps), (vec![7], 2));
    }

    proptest! {
        #[test]
        fn subscribed_is_what_has_users_or_lingers(steps in prop::collection::vec((0..4u8, 0..4usize), 1..120)) {
            let names = ["a", "b", "c", "d"];
            let mut table = Table::new(LINGER);
            let (mut now, mut users, mut waiting) = (Instant::now(), [0; 4], 0i32);
            for (kind, at) in steps {
                let target = targets(&names[at..=at]);
                match kind {
                    0 => {
                        users[at] += 1;
                        waiting += i32::from(table.acquire(target, ()).is_none());
                    }
                    1 if users[at] > 0 => {
                        users[at] -= 1;
                        table.release(&target, now);
                    }
                    2 => now += LINGER / 2,
                    _ => if let Some(step) = table.step(now, 2) {
                        waiting -= table.done(&step).len() as i32;
                    },
                }
            }
            now += LINGER;
            while let Some(step) = table.step(now, 2) {
                waiting -= table.done(&step).len() as i32;
            }
            prop_assert_eq!(waiting, 0);
            prop_assert_eq!(table.len(), users.iter().filter(|n| **n > 0).count());
        }
    }
}
