//! Which channels are compared with their logs next. A message that the feed lost shows by the next one's `prev`; where
//! no next one comes, only the log can tell. Pure.

use herald_wire::{Epoch, Position, Target};

use super::continuity::Continuity;

/// All channels are looked at once in so many turns,
const TURNS: usize = 150;
/// and not more than these in one turn: with more channels, a round takes longer.
const TURN_MAX: usize = 100;

/// Goes round all channels, spread evenly over the turns.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    left: Vec<Target>,
    at_once: usize,
}

impl Rounds {
    /// The channels whose turn it is.
    pub(super) fn next(&mut self, continuity: &Continuity) -> Vec<Target> {
        if self.left.is_empty() {
            self.left = continuity.targets();
            self.at_once = self.left.len().div_ceil(TURNS).min(TURN_MAX);
        }
        let from = self.left.len().saturating_sub(self.at_once);
        self.left.split_off(from)
    }
}

/// What the logs said before a probe was published: all of it has come by the feed before the probe does.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) epoch: Epoch,
    pub(super) tails: Vec<(Target, Position)>,
}

impl Expected {
    /// Of the channels that the feed has not brought up to there: where it stands.
    pub(super) fn missing(&self, continuity: &Continuity) -> Vec<(Target, Position)> {
        let behind = |(target, tail): &(Target, Position)| {
            let seen = continuity.of(std::slice::from_ref(target));
            seen.into_iter().find(|(_, last)| last < tail)
        };
        self.tails.iter().filter_map(behind).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(number: usize) -> Target {
        Target::group(&number.to_string(), 16).unwrap()
    }

    #[test]
    fn every_channel_has_its_turn_in_every_round() {
        for (count, at_once) in [(0, 0), (1, 1), (160, 2), (1_000, 7), (40_000, TURN_MAX)] {
            let mut continuity = Continuity::default();
            (0..count).for_each(|n| continuity.begin(target(n), Position(n as u64)));
            let mut rounds = Rounds::default();
            for _ in 0..2 {
                let mut turns = Vec::new();
                while turns.is_empty() || !rounds.left.is_empty() {
                    turns.push(rounds.next(&continuity));
                }
                assert!(turns.iter().all(|turn| turn.len() <= at_once), "{count}");
                let mut all: Vec<_> = turns.concat();
                all.sort();
                let mut due = continuity.targets();
                due.sort();
                assert_eq!(all, due);
            }
        }
    }

    #[test]
    fn only_what_the_feed_did_not_bring_is_missing() {
        let mut continuity = Continuity::default();
        (0..3).for_each(|n| continuity.begin(target(n), Position(5)));
        let tails = [(0, 5), (1, 6), (2, 4), (3, 9)];
        let tails = tails.map(|(n, tail)| (target(n), Position(tail))).to_vec();
        let expected = Expected { epoch: Epoch(1), tails };
        assert_eq!(expected.missing(&continuity), [(target(1), Position(5))]);
    }
}
