//! Deliveries are dropped, doubled and reordered at random, across reconnects; a model that remembers everything says
//! what the ledger must have counted.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The next message arrives.
    Arrive,
    /// So many are lost or overtaken.
    Skip(u32),
    /// One of the overtaken arrives after all.
    Late(usize),
    /// One that arrived comes again.
    Again(usize),
    /// The client leaves, and so many are sent while it is away.
    Away(u32),
    /// The client's connection is cut, and it resumes.
    Resume,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Arrive),
        2 => (1_u32..5).prop_map(Step::Skip),
        2 => any::<usize>().prop_map(Step::Late),
        1 => any::<usize>().prop_map(Step::Again),
        1 => (0_u32..5).prop_map(Step::Away),
        1 => Just(Step::Resume),
    ]
}

/// Remembers everything.
#[derive(Default)]
struct Model {
    sent: u32,
    first: u32,
    due: BTreeSet<u32>,
    seen: BTreeSet<u32>,
    expected: Account,
}

impl Model {
    fn drive(&mut self, ledger: &mut Ledger, step: Step) {
        match step {
            Step::Arrive => {
                self.sent += 1;
                self.due.insert(self.sent);
                self.seen.insert(self.sent);
                assert_eq!(ledger.receive(self.sent), Receipt::InOrder);
            }
            Step::Skip(count) => {
                self.due.extend(self.sent + 1..=self.sent + count);
                self.sent += count;
            }
            Step::Late(pick) => {
                let highest = self.seen.last().copied().unwrap_or(0);
                let overtaken: Vec<u32> = self.due.difference(&self.seen).copied().collect();
                let overtaken: Vec<u32> = overtaken.into_iter().filter(|n| *n < highest).collect();
                if let Some(number) = chosen(&overtaken, pick) {
                    self.seen.insert(number);
                    self.expected.out_of_order += 1;
                    assert_eq!(ledger.receive(number), Receipt::OutOfOrder);
                }
            }
            Step::Again(pick) => {
                let seen: Vec<u32> = self.seen.iter().copied().filter(|n| *n >= self.first).collect();
                if let Some(number) = chosen(&seen, pick) {
                    self.expected.duplicated += 1;
                    assert_eq!(ledger.receive(number), Receipt::Duplicate);
                }
            }
            Step::Away(count) => {
                // what was on its way when it left is nobody's due
                let highest = self.seen.last().copied().unwrap_or(0).max(self.first.saturating_sub(1));
                self.due.retain(|n| *n <= highest);
                ledger.leave();
                self.sent += count;
                self.first = self.sent + 1;
                ledger.join(self.first);
            }
            Step::Resume => assert!(ledger.is_open()),
        }
    }
}

fn chosen(from: &[u32], pick: usize) -> Option<u32> {
    (!from.is_empty()).then(|| from[pick % from.len()])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn the_account_is_exact(all in prop::collection::vec(steps(), 0..300), doubtful in prop::collection::btree_set(1_u32..400, 0..20)) {
        let mut model = Model { first: 1, ..Model::default() };
        let mut ledger = Ledger::default();
        ledger.join(1);
        for step in all {
            model.drive(&mut ledger, step);
            prop_assert_eq!(ledger.outstanding(model.sent), model.due.difference(&model.seen).count() as u64);
        }
        let exempt: Vec<u32> = doubtful.into_iter().filter(|n| *n <= model.sent).collect();
        model.due.retain(|n| model.seen.contains(n) || !exempt.contains(n));
        let lost = model.due.difference(&model.seen).count() as u64;
        let due = model.due.len() as u64;
        let expected = Account { due, delivered: due - lost, lost, ..model.expected };
        prop_assert_eq!(ledger.settle(model.sent, &exempt), expected);
    }
}

#[test]
fn what_was_sent_before_the_stay_is_not_due_but_may_come() {
    let mut ledger = Ledger::default();
    assert_eq!(ledger.receive(1), Receipt::Undue);
    ledger.join(4);
    assert_eq!(ledger.receive(3), Receipt::Undue);
    assert_eq!(ledger.receive(5), Receipt::InOrder);
    let account = ledger.settle(6, &[]);
    assert_eq!(account, Account { due: 3, delivered: 1, lost: 2, undue: 2, ..Account::default() });
}

#[test]
fn a_client_that_never_joined_was_due_nothing() {
    assert_eq!(Ledger::default().settle(100, &[3]), Account::default());
}

#[test]
fn too_many_holes_are_counted_but_no_longer_told_apart() {
    let mut ledger = Ledger::default();
    ledger.join(1);
    let holes = RANGES_MAX as u32 + 10;
    for hole in 1..=holes {
        assert_eq!(ledger.receive(2 * hole), Receipt::InOrder);
    }
    assert_eq!(ledger.outstanding(2 * holes), u64::from(holes));
    assert_eq!(ledger.receive(1), Receipt::Unresolved);
    assert_eq!(ledger.receive(2 * holes - 1), Receipt::OutOfOrder);
    let account = ledger.settle(2 * holes, &[]);
    assert_eq!((account.due, account.lost), (u64::from(2 * holes), u64::from(holes - 1)));
    assert_eq!((account.unresolved, account.out_of_order), (1, 1));
}

#[test]
fn a_hole_in_the_middle_of_a_full_list_stays_within_the_bound() {
    let mut ledger = Ledger::default();
    ledger.join(1);
    for hole in 1..=RANGES_MAX as u32 {
        ledger.receive(10 * hole);
    }
    assert_eq!(ledger.receive(10 * RANGES_MAX as u32 - 5), Receipt::OutOfOrder);
    assert_eq!(ledger.receive(5), Receipt::Unresolved);
    assert_eq!(ledger.receive(15), Receipt::OutOfOrder);
}
