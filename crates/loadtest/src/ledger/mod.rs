//! What one client was due on one channel, and what came of it: delivered, lost, duplicated, out of order. Pure, and
//! small: a client that gets everything in order costs a few words whatever the number of messages.
//!
//! A channel's messages are numbered from 1 in the order of their schedule. A client is due those of its **stays**: from
//! the first one scheduled after it was told that it is registered, to the last one of the round, or to the last one it
//! saw when it left for good. A client that resumes does not leave.

mod ranges;
#[cfg(test)]
mod tests;

pub use ranges::RANGES_MAX;
use ranges::Ranges;

/// One client's account with one channel.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// The first number of this stay; 0 when it never began.
    first: u32,
    /// The number after the highest seen.
    next: u32,
    is_open: bool,
    /// What earlier stays were due.
    due_before: u64,
    /// Due, and not seen. Allocated when something is.
    missing: Option<Box<Ranges>>,
    duplicated: u64,
    out_of_order: u64,
    undue: u64,
    unresolved: u64,
}

/// What a message was to the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// Due, for the first time, and later than everything before it.
    InOrder,
    /// Due, for the first time, but after a later one.
    OutOfOrder,
    /// Seen before.
    Duplicate,
    /// Scheduled before the stay began: it may come, but need not.
    Undue,
    /// Late or a duplicate: too much was missing to remember which.
    Unresolved,
}

/// A settled account, or the sum of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Account {
    /// Deliveries that had to happen.
    pub due: u64,
    /// Those that did.
    pub delivered: u64,
    /// Those that did not: of a volatile stream, what was shed or dropped.
    pub lost: u64,
    /// Deliveries after the first one of the same message.
    pub duplicated: u64,
    /// Deliveries after that of a later message of the channel.
    pub out_of_order: u64,
    /// Deliveries that need not have happened: scheduled while the client was registering or away.
    pub undue: u64,
    /// Deliveries that are late or duplicates, it is not known which. Unless 0, the account is not exact.
    pub unresolved: u64,
}

impl Account {
    /// Adds another account.
    pub fn add(&mut self, other: &Self) {
        self.due += other.due;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
        self.undue += other.undue;
        self.unresolved += other.unresolved;
    }
}

impl Ledger {
    /// A stay begins: `first` is the number of the first message that is due.
    pub fn join(&mut self, first: u32) {
        self.leave();
        // a number seen before stays seen, whatever the clocks say
        self.first = first.max(self.next);
        self.next = self.first;
        self.is_open = true;
    }

    /// The stay ends for good: nothing beyond what was seen is due.
    pub fn leave(&mut self) {
        if self.is_open {
            self.due_before += u64::from(self.next - self.first);
            self.is_open = false;
        }
    }

    /// Whether a stay goes on.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// A message came.
    pub fn receive(&mut self, number: u32) -> Receipt {
        if self.is_open && number == self.next {
            self.next += 1;
            return Receipt::InOrder;
        }
        let receipt = self.unexpected(number);
        match receipt {
            Receipt::InOrder => {}
            Receipt::OutOfOrder => self.out_of_order += 1,
            Receipt::Duplicate => self.duplicated += 1,
            Receipt::Undue => self.undue += 1,
            Receipt::Unresolved => self.unresolved += 1,
        }
        receipt
    }

    fn unexpected(&mut self, number: u32) -> Receipt {
        if self.is_open && number > self.next {
            self.missing.get_or_insert_default().push(self.next, number - 1);
            self.next = number.saturating_add(1);
            return Receipt::InOrder;
        }
        if let Some(missing) = &mut self.missing {
            if missing.remove(number) {
                return Receipt::OutOfOrder;
            }
            if number <= missing.forgotten_to() {
                return Receipt::Unresolved;
            }
        }
        if self.is_open && number >= self.first { Receipt::Duplicate } else { Receipt::Undue }
    }

    /// How many messages up to number `last` are due and not there yet.
    pub fn outstanding(&self, last: u32) -> u64 {
        self.missing.as_ref().map_or(0, |missing| missing.len()) + self.tail(last)
    }

    fn tail(&self, last: u32) -> u64 {
        if self.is_open { u64::from(last.saturating_add(1).saturating_sub(self.next)) } else { 0 }
    }

    /// Closes the books. `last` is the last number that was sent; those in `exempt`, ascending, may not have been sent
    /// at all, so that they count as due only where they arrived.
    pub fn settle(mut self, last: u32, exempt: &[u32]) -> Account {
        let tail = self.tail(last);
        if tail > 0 {
            self.missing.get_or_insert_default().push(self.next, last);
            self.next = last.saturating_add(1);
        }
        self.leave();
        let mut due = self.due_before;
        let mut lost = 0;
        if let Some(missing) = &mut self.missing {
            for number in exempt {
                if missing.remove(*number) {
                    due -= 1;
                } else if *number <= missing.forgotten_to() {
                    self.unresolved += 1;
                }
            }
            lost = missing.len();
        }
        Account {
            due,
            delivered: due.saturating_sub(lost),
            lost,
            duplicated: self.duplicated,
            out_of_order: self.out_of_order,
            undue: self.undue,
            unresolved: self.unresolved,
        }
    }
}
