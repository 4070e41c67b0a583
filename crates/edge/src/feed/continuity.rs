//! Whether the feed brought everything: each reliable message names the one before it. Pure.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use herald_wire::envelope::Place;
use herald_wire::{Position, Target};

/// The last position seen of every channel subscribed to.
#[derive(Debug, Default)]
pub(crate) struct Continuity {
    last: HashMap<Target, Position, RandomState>,
}

/// What a message's place says about the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It follows what was seen last.
    Next,
    /// It was here before.
    Again,
    /// Others stand between this position and it: they were lost.
    Hole(Position),
}

impl Continuity {
    /// Subscribed, when the log's last position was `tail`.
    pub(crate) fn begin(&mut self, target: Target, tail: Position) {
        // one that is subscribed already stays where its feed is: what is on its way up to `tail` is news to its members
        self.last.entry(target).or_insert(tail);
    }

    /// Everything of this channel up to `position` was handed on.
    pub(crate) fn reach(&mut self, target: Target, position: Position) {
        let last = self.last.entry(target).or_insert(position);
        *last = (*last).max(position);
    }

    /// Unsubscribed.
    pub(crate) fn end(&mut self, target: &Target) {
        self.last.remove(target);
    }

    /// Takes note of a message.
    pub(crate) fn see(&mut self, target: &Target, place: Place) -> Seen {
        let Some(last) = self.last.get_mut(target) else {
            // between the subscription and its beginning
            self.last.insert(target.clone(), place.position);
            return Seen::Next;
        };
        if place.position <= *last {
            return Seen::Again;
        }
        let before = std::mem::replace(last, place.position);
        // a log that was lost or has expired begins anew: its first entry names none
        if place.prev > before { Seen::Hole(before) } else { Seen::Next }
    }

    /// Every channel and its last position.
    pub(crate) fn all(&self) -> Vec<(Target, Position)> {
        self.last.iter().map(|(target, last)| (target.clone(), *last)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(prev: u64, position: u64) -> Place {
        Place { prev: Position(prev), position: Position(position) }
    }

    #[test]
    fn a_hole_shows_by_the_position_before() {
        let target = Target::everyone();
        let mut continuity = Continuity::default();
        continuity.begin(target.clone(), Position(5));
        assert_eq!(continuity.see(&target, place(5, 6)), Seen::Next);
        assert_eq!(continuity.see(&target, place(5, 6)), Seen::Again);
        assert_eq!(continuity.see(&target, place(8, 9)), Seen::Hole(Position(6)));
        assert_eq!(continuity.see(&target, place(9, 10)), Seen::Next);
        assert_eq!(continuity.see(&target, place(0, 11)), Seen::Next);
    }

    #[test]
    fn what_came_before_the_beginning_was_asked_is_no_hole() {
        let target = Target::everyone();
        let mut continuity = Continuity::default();
        assert_eq!(continuity.see(&target, place(4, 6)), Seen::Next);
        continuity.begin(target.clone(), Position(5));
        assert_eq!(continuity.see(&target, place(6, 7)), Seen::Next);
        assert_eq!(continuity.all(), [(target.clone(), Position(7))]);
        continuity.end(&target);
        assert_eq!(continuity.all(), []);
    }
}
