//! Messages on their way to the bus, in the order they came: which publications go into the next batch, what an answer
//! means, and what waits for a retry. Pure.
//!
//! The order of a channel is kept by one rule: a target whose publication failed is held, and nothing for it goes out
//! until the holds are released; then the failed one goes first. Others pass by.

use std::collections::{HashSet, VecDeque};

use herald_bus::{BusError, Publication, Published};
use herald_wire::Target;

use crate::plan::{Plan, Refusal};

/// What became of a message, once all of its targets are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Published to at least one target.
    Published,
    /// Its id was published to all of its targets before.
    Duplicate,
    /// Volatile, without an id, and the bus' answer was lost: sending it again could deliver it twice.
    Unanswered,
    /// Its time was over before all of its targets had it.
    Expired(Refusal),
}

/// A message that is done.
#[derive(Debug)]
pub struct Settled<T> {
    /// What it was pushed with.
    pub origin: T,
    /// What was to be done.
    pub plan: Plan,
    /// What was done.
    pub outcome: Outcome,
}

/// Publications to hand to the bus, in order.
#[derive(Debug, Default)]
pub struct Batch {
    /// What to publish.
    pub publications: Vec<Publication>,
    /// Which message and which of its targets each is.
    places: Vec<(u64, usize)>,
}

/// Messages with targets that are not done. `T` is what a message came with.
#[derive(Debug)]
pub struct Outstanding<T> {
    /// The number of the first slot.
    first: u64,
    /// `None` where a message is done and one before it is not.
    slots: VecDeque<Option<Slot<T>>>,
    held: HashSet<Target>,
}

#[derive(Debug)]
struct Slot<T> {
    origin: T,
    plan: Plan,
    /// Targets still to publish to, by index.
    open: Vec<usize>,
    in_flight: usize,
    published: bool,
    /// An answer was lost: a duplicate may be this very message.
    uncertain: bool,
    dropped: bool,
}

impl<T> Default for Outstanding<T> {
    fn default() -> Self {
        Self { first: 0, slots: VecDeque::new(), held: HashSet::new() }
    }
}

impl<T> Outstanding<T> {
    /// Adds a message behind all others.
    pub fn push(&mut self, origin: T, plan: Plan) {
        let open = (0..plan.targets.len()).collect();
        let slot =
            Slot { origin, plan, open, in_flight: 0, published: false, uncertain: false, dropped: false };
        self.slots.push_back(Some(slot));
    }

    /// Whether no message is outstanding.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Up to `max` publications that may go out now, stamped with `now_us`. Those of one message go together if they fit
    /// into one batch at all: where Redis or this ingest ends between two batches, whoever is to get a message by several
    /// targets would get the copies far apart, and may not remember the first.
    pub fn next_batch(&mut self, max: usize, now_us: u64) -> Batch {
        let mut batch = Batch::default();
        for (offset, slot) in self.slots.iter_mut().enumerate() {
            let room = max - batch.places.len();
            if room == 0 {
                break;
            }
            if let Some(slot) = slot {
                if slot.open.len() > room && !batch.places.is_empty() {
                    break;
                }
                slot.fill(&mut batch, self.first + offset as u64, (room, now_us), &self.held);
            }
        }
        batch
    }

    /// Takes in the bus' answers to a batch, in its order; holds the targets that failed.
    pub fn answered(&mut self, batch: &Batch, answers: Vec<Result<Published, BusError>>) -> Vec<Settled<T>> {
        let mut settled = Vec::new();
        // a bus that answered too little would otherwise leave the rest in flight for ever
        let missing = std::iter::repeat_with(|| Err(BusError::Reply { what: "too few answers".to_owned() }));
        for ((number, target), answer) in batch.places.iter().zip(answers.into_iter().chain(missing)) {
            let Some(slot) = number.checked_sub(self.first).and_then(|at| self.slots.get_mut(at as usize))
            else {
                continue;
            };
            let Some(message) = slot else { continue };
            if let Some(held) = message.answered(*target, answer) {
                self.held.insert(held);
            }
            if message.open.is_empty() && message.in_flight == 0 {
                settled.extend(slot.take().map(Slot::settled));
            }
        }
        self.trim();
        settled
    }

    /// Takes out the messages whose time is over, except those that are with the bus.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Settled<T>> {
        let mut expired = Vec::new();
        for place in &mut self.slots {
            let refusal =
                place.as_ref().filter(|slot| slot.in_flight == 0).and_then(|s| s.plan.expired(now_ms));
            if let Some(refusal) = refusal
                && let Some(slot) = place.take()
            {
                let outcome = Outcome::Expired(refusal);
                expired.push(Settled { origin: slot.origin, plan: slot.plan, outcome });
            }
        }
        self.trim();
        expired
    }

    /// Whether some target is held.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Lets the held targets try again.
    pub fn release(&mut self) {
        self.held.clear();
    }

    /// Forgets everything; says how many messages that were. Answers that still come are ignored.
    pub fn clear(&mut self) -> usize {
        let count = self.slots.iter().flatten().count();
        self.first += self.slots.len() as u64;
        self.slots.clear();
        self.held.clear();
        count
    }

    fn trim(&mut self) {
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
    }
}

impl<T> Slot<T> {
    /// Moves what is open and not held into the batch.
    fn fill(&mut self, batch: &mut Batch, number: u64, (room, now_us): (usize, u64), held: &HashSet<Target>) {
        if self.open.is_empty() {
            return;
        }
        let before = batch.places.len();
        let mut envelope = None;
        let plan = &mut self.plan;
        self.open.retain(|&target| {
            let is_held =
                !held.is_empty() && plan.targets.get(target).is_some_and(|name| held.contains(name));
            if is_held || batch.places.len() - before == room {
                return true;
            }
            let bytes = envelope.get_or_insert_with(|| plan.encode(now_us)).clone();
            if let Some(publication) = plan.publication(target, bytes) {
                batch.publications.push(publication);
                batch.places.push((number, target));
            }
            false
        });
        self.in_flight += batch.places.len() - before;
    }

    /// The target to hold, if it failed.
    fn answered(&mut self, target: usize, answer: Result<Published, BusError>) -> Option<Target> {
        self.in_flight -= 1;
        match answer {
            Ok(Published::Logged(_) | Published::Sent { .. }) => self.published = true,
            Ok(Published::Duplicate) => self.published |= self.uncertain,
            Err(error) if error.may_have_happened() && self.plan.dedup_id.is_none() => self.dropped = true,
            Err(error) => {
                self.uncertain |= error.may_have_happened();
                self.open.push(target);
                self.open.sort_unstable();
                return self.plan.targets.get(target).cloned();
            }
        }
        None
    }

    fn settled(self) -> Settled<T> {
        let outcome = match (self.published, self.dropped) {
            (true, _) => Outcome::Published,
            (false, true) => Outcome::Unanswered,
            (false, false) => Outcome::Duplicate,
        };
        Settled { origin: self.origin, plan: self.plan, outcome }
    }
}

#[cfg(test)]
mod tests;
