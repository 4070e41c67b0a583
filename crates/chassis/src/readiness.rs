//! Whether this process can do its work: named conditions, each met or not with a sentence that says why.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All conditions of a process. Cloning is a reference count.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<BTreeMap<&'static str, Condition>>>,
    notes: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

/// One condition, held by the task that knows. Cloning is a reference count.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    // read first, so that a task may say "ready" as often as it likes
    ready: AtomicBool,
    reason: Mutex<String>,
}

impl Readiness {
    /// No conditions, hence ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// A condition that is not met yet; `reason` is a sentence for the operator. Asking again for a name returns the
    /// condition that has it. Register it before the task that will meet it is spawned: nobody waits for conditions
    /// that are not there yet.
    pub fn condition(&self, name: &'static str, reason: &str) -> Condition {
        let new = || Condition {
            name,
            state: Arc::new(State { ready: AtomicBool::new(false), reason: Mutex::new(reason.to_owned()) }),
        };
        lock(&self.conditions).entry(name).or_insert_with(new).clone()
    }

    /// Whether every condition is met.
    pub fn is_ready(&self) -> bool {
        lock(&self.conditions).values().all(Condition::is_ready)
    }

    /// Says a sentence beside the conditions, on which readiness does not depend; the last one under a name stands.
    pub fn note(&self, name: &'static str, sentence: String) {
        lock(&self.notes).insert(name, sentence);
    }

    /// What was noted, by name.
    pub fn notes(&self) -> Vec<(&'static str, String)> {
        lock(&self.notes).iter().map(|(name, sentence)| (*name, sentence.clone())).collect()
    }

    /// Every condition by name: `None` when met, else what is wrong.
    pub fn report(&self) -> Vec<(&'static str, Option<String>)> {
        lock(&self.conditions).values().map(|condition| (condition.name, condition.reason())).collect()
    }
}

impl Condition {
    /// It is met.
    pub fn ready(&self) {
        if !self.state.ready.swap(true, Ordering::AcqRel) {
            tracing::info!(condition = self.name, "ready");
        }
    }

    /// It is not met, because of `reason`, a sentence for the operator. Logged when it changes.
    pub fn not_ready(&self, reason: &str) {
        let mut told = lock(&self.state.reason);
        let was_ready = self.state.ready.swap(false, Ordering::AcqRel);
        if was_ready || *told != reason {
            tracing::warn!(condition = self.name, reason, "not ready");
            reason.clone_into(&mut told);
        }
    }

    /// Whether it is met.
    pub fn is_ready(&self) -> bool {
        self.state.ready.load(Ordering::Acquire)
    }

    fn reason(&self) -> Option<String> {
        (!self.is_ready()).then(|| lock(&self.state.reason).clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_must_be_met() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let redis = readiness.condition("redis", "not connected yet");
        let feed = readiness.condition("feed", "not subscribed yet");
        redis.ready();
        assert!(!readiness.is_ready());
        assert_eq!(readiness.report(), [("feed", Some("not subscribed yet".to_owned())), ("redis", None)]);
        feed.ready();
        assert!(readiness.is_ready());
        redis.not_ready("connection refused");
        assert_eq!(readiness.report()[1], ("redis", Some("connection refused".to_owned())));
        readiness.note("flow", "slow".to_owned());
        readiness.note("flow", "fast".to_owned());
        assert_eq!(readiness.notes(), [("flow", "fast".to_owned())]);
        // the same name is the same condition
        readiness.condition("redis", "unused").ready();
        assert!(redis.is_ready() && readiness.is_ready());
    }
}
