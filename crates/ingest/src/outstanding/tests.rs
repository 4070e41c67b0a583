//! What answers mean, and that the order of a channel is kept whatever fails.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use herald_wire::{Envelope, Position};
use proptest::prelude::*;

use super::*;

fn plan(targets: &[&str], reliable: bool, dedup_id: Option<&str>) -> Plan {
    Plan {
        targets: targets.iter().map(|id| Target::socket(id, 9).unwrap()).collect(),
        envelope: Envelope { reliable, body: Bytes::from_static(b"{}"), ..Envelope::default() },
        dedup_id: dedup_id.map(Into::into),
        give_up_at_ms: 100,
    }
}

fn reliable(targets: &[&str]) -> Plan {
    plan(targets, true, Some("id"))
}

fn logged() -> Result<Published, BusError> {
    Ok(Published::Logged(Position(1)))
}

fn down() -> Result<Published, BusError> {
    Err(BusError::Unreachable { server: "redis:1".into(), after: Duration::ZERO, source: None })
}

fn lost() -> Result<Published, BusError> {
    Err(BusError::Timeout { server: "redis:1".into(), after: Duration::ZERO })
}

fn targets(batch: &Batch) -> String {
    batch.publications.iter().map(|p| p.target.as_str()).collect::<Vec<_>>().join(" ")
}

fn outcomes(settled: &[Settled<u32>]) -> Vec<(u32, Outcome)> {
    settled.iter().map(|s| (s.origin, s.outcome.clone())).collect()
}

#[test]
fn a_batch_takes_what_is_there_up_to_its_size() {
    let mut all = Outstanding::default();
    all.push(1, reliable(&["a", "b"]));
    all.push(2, reliable(&["c"]));
    let first = all.next_batch(1, 7);
    assert_eq!(targets(&first), "s:a");
    assert_eq!(Envelope::read(first.publications[0].envelope.clone()).unwrap().published_at_us, 7);
    assert!(outcomes(&all.answered(&first, vec![logged()])).is_empty());
    let second = all.next_batch(9, 8);
    assert_eq!(targets(&second), "s:b s:c");
    let settled = all.answered(&second, vec![logged(), logged()]);
    assert_eq!(outcomes(&settled), [(1, Outcome::Published), (2, Outcome::Published)]);
    assert!(all.is_empty());
}

#[test]
fn copies_of_a_message_go_together() {
    let mut all = Outstanding::default();
    all.push(1, reliable(&["a", "b"]));
    all.push(2, reliable(&["c", "d"]));
    all.push(3, reliable(&["e"]));
    assert_eq!(targets(&all.next_batch(3, 0)), "s:a s:b");
    assert_eq!(targets(&all.next_batch(3, 0)), "s:c s:d s:e");
    // one that is larger than any batch is cut
    all.push(4, reliable(&["f", "g", "h", "i"]));
    assert_eq!(targets(&all.next_batch(3, 0)), "s:f s:g s:h");
    assert_eq!(targets(&all.next_batch(3, 0)), "s:i");
}

#[test]
fn a_failed_target_is_held_and_its_order_kept_while_others_pass() {
    let mut all = Outstanding::default();
    all.push(1, reliable(&["a"]));
    let batch = all.next_batch(9, 0);
    assert!(all.answered(&batch, vec![down()]).is_empty());
    assert!(all.is_holding());
    all.push(2, reliable(&["a", "b"]));
    all.push(3, reliable(&["b"]));
    let batch = all.next_batch(9, 0);
    assert_eq!(targets(&batch), "s:b s:b");
    assert_eq!(outcomes(&all.answered(&batch, vec![logged(), logged()])), [(3, Outcome::Published)]);
    assert_eq!(targets(&all.next_batch(9, 0)), "");
    all.release();
    let batch = all.next_batch(9, 0);
    assert_eq!(targets(&batch), "s:a s:a");
    let settled = all.answered(&batch, vec![logged(), Ok(Published::Duplicate)]);
    assert_eq!(outcomes(&settled), [(1, Outcome::Published), (2, Outcome::Published)]);
}

#[test]
fn what_a_lost_answer_means_depends_on_the_id() {
    // first answer, second answer, outcome
    let dup = || Ok(Published::Duplicate);
    let mut all = Outstanding::default();
    all.push(1, plan(&["a"], false, None));
    all.push(2, plan(&["b"], false, Some("id")));
    all.push(3, reliable(&["c"]));
    all.push(4, reliable(&["d"]));
    let batch = all.next_batch(9, 0);
    let settled = all.answered(&batch, vec![lost(), lost(), lost(), down()]);
    assert_eq!(outcomes(&settled), [(1, Outcome::Unanswered)]);
    all.release();
    let batch = all.next_batch(9, 0);
    let settled = all.answered(&batch, vec![dup(), dup(), dup()]);
    let expected = [(2, Outcome::Published), (3, Outcome::Published), (4, Outcome::Duplicate)];
    assert_eq!(outcomes(&settled), expected);
}

#[test]
fn what_waits_expires_but_not_while_the_bus_has_it() {
    let mut all = Outstanding::default();
    all.push(1, reliable(&["a"]));
    all.push(2, reliable(&["b"]));
    let batch = all.next_batch(1, 0);
    let late = || Outcome::Expired(Refusal::Expired { late_ms: 5 });
    assert!(all.expire(99).is_empty());
    assert_eq!(outcomes(&all.expire(105)), [(2, late())]);
    all.answered(&batch, vec![down()]);
    assert_eq!(outcomes(&all.expire(105)), [(1, late())]);
    assert!(all.is_empty());
}

#[test]
fn answers_that_come_after_a_clear_are_ignored() {
    let mut all = Outstanding::default();
    all.push(1, reliable(&["a"]));
    let stale = all.next_batch(9, 0);
    assert_eq!(all.clear(), 1);
    all.push(2, reliable(&["a"]));
    let fresh = all.next_batch(9, 0);
    assert!(all.answered(&stale, vec![down()]).is_empty());
    assert!(!all.is_holding());
    assert_eq!(outcomes(&all.answered(&fresh, vec![])), []);
    all.release();
    assert_eq!(targets(&all.next_batch(9, 0)), "s:a");
}

proptest! {
    /// Whatever fails and in whatever batches: each target gets its messages in order, each once, and all of them.
    #[test]
    fn the_order_of_a_channel_is_kept(
        messages in proptest::collection::vec(proptest::sample::subsequence(vec!["a", "b", "c"], 1..=3), 1..40),
        sizes in proptest::collection::vec(1..5_usize, 1..20),
        failures in proptest::collection::vec(0..4_u8, 1..60),
        pushes in proptest::collection::vec(0..4_usize, 1..20),
    ) {
        let mut all = Outstanding::default();
        let mut channels: HashMap<String, Vec<u32>> = HashMap::new();
        let (mut waiting, mut settled) = (messages.iter().enumerate(), 0);
        let (mut sizes, mut pushes) = (sizes.iter().cycle(), pushes.iter().cycle());
        // a failure of one publication of a target in a batch is one of all behind it, as a lost connection makes it
        let mut failures = failures.iter().cycle();
        let mut rounds = 0;
        while settled < messages.len() {
            rounds += 1;
            let push = if rounds > 500 { 99 } else { *pushes.next().unwrap() };
            for (number, targets) in waiting.by_ref().take(push) {
                let mut plan = reliable(targets);
                plan.envelope.copies_id = number as u64;
                all.push(number as u32, plan);
            }
            let batch = all.next_batch(*sizes.next().unwrap(), 0);
            let mut failed = HashSet::new();
            let mut answers = Vec::new();
            for publication in &batch.publications {
                let fails = rounds <= 500 && *failures.next().unwrap() == 0;
                if fails || failed.contains(&publication.target) {
                    failed.insert(publication.target.clone());
                    answers.push(down());
                } else {
                    let number = Envelope::read(publication.envelope.clone()).unwrap().copies_id as u32;
                    channels.entry(publication.target.to_string()).or_default().push(number);
                    answers.push(logged());
                }
            }
            settled += all.answered(&batch, answers).len();
            if rounds % 3 == 0 || rounds > 500 {
                all.release();
            }
        }
        prop_assert!(all.is_empty());
        for (channel, numbers) in channels {
            let expected: Vec<u32> = messages.iter().enumerate()
                .filter(|(_, targets)| targets.iter().any(|id| format!("s:{id}") == channel))
                .map(|(number, _)| number as u32)
                .collect();
            prop_assert_eq!(numbers, expected);
        }
    }
}
