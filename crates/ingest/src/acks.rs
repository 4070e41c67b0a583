//! Which deliveries may be acknowledged: the longest run from the oldest on that is settled, in one `multiple` ack.
//! Pure.
//!
//! A delivery tag means something on the channel that delivered it and nowhere else, so a tag carries its generation,
//! and a tag of another generation is dropped: the broker delivers that message again.

use std::collections::VecDeque;

/// A delivery's tag, and the generation of the channel it came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Counts connections.
    pub generation: u64,
    /// AMQP's delivery tag.
    pub number: u64,
}

/// An ack to send: it covers this tag and all before it on its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The newest tag that is covered.
    pub number: u64,
    /// How many deliveries are covered that no ack covered before.
    pub count: usize,
}

/// The unacknowledged deliveries of one generation.
#[derive(Debug, Default)]
pub struct Acks {
    generation: u64,
    /// In the order delivered, which is ascending: number, and whether it is settled.
    deliveries: VecDeque<(u64, bool)>,
}

impl Acks {
    /// Nothing delivered, generation 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// A new channel: forgets all tags of the ones before, and says how many those were.
    pub fn restart(&mut self) -> usize {
        self.generation += 1;
        let forgotten = self.deliveries.len();
        self.deliveries.clear();
        forgotten
    }

    /// The generation that counts.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Notes a delivery on the current channel. Numbers ascend.
    pub fn delivered(&mut self, number: u64) -> Tag {
        debug_assert!(self.deliveries.back().is_none_or(|(last, _)| *last < number), "delivery tags ascend");
        self.deliveries.push_back((number, false));
        Tag { generation: self.generation, number }
    }

    /// Notes that a delivery needs nothing more; in any order, twice does no harm.
    pub fn settle(&mut self, tag: Tag) {
        if tag.generation != self.generation {
            return;
        }
        if let Ok(at) = self.deliveries.binary_search_by_key(&tag.number, |(number, _)| *number)
            && let Some((_, settled)) = self.deliveries.get_mut(at)
        {
            *settled = true;
        }
    }

    /// The ack that is due, once.
    pub fn due(&mut self) -> Option<Ack> {
        let count = self.deliveries.iter().take_while(|(_, settled)| *settled).count();
        let number = self.deliveries.drain(..count).next_back()?.0;
        Some(Ack { number, count })
    }

    /// How many deliveries no ack covers yet.
    pub fn unacked(&self) -> usize {
        self.deliveries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_ack_covers_only_what_is_settled() {
        let mut acks = Acks::new();
        let tags: Vec<_> = (1..=4).map(|number| acks.delivered(number)).collect();
        acks.settle(tags[1]);
        acks.settle(tags[2]);
        assert_eq!(acks.due(), None);
        acks.settle(tags[0]);
        assert_eq!(acks.due(), Some(Ack { number: 3, count: 3 }));
        assert_eq!(acks.due(), None);
        assert_eq!(acks.unacked(), 1);
    }

    #[test]
    fn a_tag_of_another_generation_is_dropped() {
        let mut acks = Acks::new();
        let stale = acks.delivered(1);
        assert_eq!(acks.restart(), 1);
        let fresh = acks.delivered(1);
        acks.settle(stale);
        assert_eq!(acks.due(), None);
        acks.settle(fresh);
        assert_eq!(acks.due(), Some(Ack { number: 1, count: 1 }));
        acks.settle(fresh);
        assert_eq!(acks.due(), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Deliver,
        /// Settles one of those ever delivered, of any generation.
        Settle(proptest::sample::Index),
        Ack,
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => Just(Step::Deliver),
            6 => any::<proptest::sample::Index>().prop_map(Step::Settle),
            3 => Just(Step::Ack),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        #[test]
        fn never_acks_what_is_not_settled_and_acks_everything_in_the_end(
            steps in proptest::collection::vec(step(), 0..300),
        ) {
            let mut acks = Acks::new();
            let mut all: Vec<Tag> = Vec::new();
            // of the current generation
            let (mut open, mut covered, mut next) = (BTreeSet::new(), 0, 1);
            for step in steps {
                match step {
                    Step::Deliver => {
                        all.push(acks.delivered(next));
                        open.insert(next);
                        // a channel may skip numbers
                        next += 1 + (next % 3 == 0) as u64;
                    }
                    Step::Settle(index) if !all.is_empty() => {
                        let tag = *index.get(&all);
                        acks.settle(tag);
                        if tag.generation == acks.generation() {
                            open.remove(&tag.number);
                        }
                    }
                    Step::Settle(_) => {}
                    Step::Ack => {
                        if let Some(ack) = acks.due() {
                            prop_assert!(open.iter().all(|number| *number > ack.number));
                            prop_assert!(ack.number > covered && ack.count > 0);
                            covered = ack.number;
                        }
                    }
                    Step::Restart => {
                        acks.restart();
                        open.clear();
                        (covered, next) = (0, 1);
                    }
                }
            }
            for tag in all {
                acks.settle(tag);
            }
            let last = acks.unacked();
            prop_assert_eq!(acks.due().map_or(0, |ack| ack.count), last);
            prop_assert_eq!(acks.unacked(), 0);
        }
    }
}
