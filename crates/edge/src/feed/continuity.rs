//! Whether the feed brought everything: each reliable message names the one before it. Pure.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use herald_wire::envelope::Place;
use herald_wire::{Position, Target};

/// The last position seen of every channel subscribed to.
#[derive(Debug, Default)]
pub(crate) struct Continuity {
    last: HashMap<Target, Position, RandomState>,
    /// The feed has a hole that the logs have not filled yet.
    broken: bool,
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
    /// Others that stand before it, in whatever channel, are still to be read from the logs, which then have it too: a
    /// connection that has this one must have those.
    TooEarly,
}

impl Continuity {
    /// Until the feed is whole again, nothing follows what was seen.
    pub(crate) fn set_broken(&mut self, broken: bool) {
        self.broken = broken;
    }

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

    /// The channel's log is not what it was: whatever stands behind `position` is to come.
    pub(crate) fn begin_anew(&mut self, target: &Target, position: Position) {
        if let Some(last) = self.last.get_mut(target) {
            *last = position;
        }
    }

    /// Unsubscribed.
    pub(crate) fn end(&mut self, target: &Target) {
        self.last.remove(target);
    }

    /// Takes note of a message.
    pub(crate) fn see(&mut self, target: &Target, place: Place) -> Seen {
        if self.broken {
            return Seen::TooEarly;
        }
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

    /// The last positions of those of these channels that are still subscribed to.
    pub(crate) fn of(&self, targets: &[Target]) -> Vec<(Target, Position)> {
        let last = |target: &Target| Some((target.clone(), *self.last.get(target)?));
        targets.iter().filter_map(last).collect()
    }

    pub(crate) fn targets(&self) -> Vec<Target> {
        self.last.keys().cloned().collect()
    }

    /// Every channel and its last position.
    pub(crate) fn all(&self) -> Vec<(Target, Position)> {
        self.last.iter().map(|(target, last)| (target.clone(), *last)).collect()
    }
}

/// From where a channel is to be followed whose log cannot be the one of which `last` was seen: its newest entry stands
/// before that, or Redis began a new life. `None`: it is that log, as far as can be told.
pub(super) fn anew(last: Position, tail: Position, is_new_life: bool) -> Option<Position> {
    let is_shorter = tail < last;
    match (is_new_life, is_shorter) {
        _ if last == Position::ZERO => None,
        // nothing of the new life was seen yet
        (true, true) => Some(Position::ZERO),
        (true, false) => Some(last),
        // a tail that is gone was merely quiet for long
        (false, true) if tail != Position::ZERO => Some(tail),
        (false, _) => None,
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
    fn while_the_feed_is_broken_nothing_overtakes_what_the_logs_are_to_bring() {
        let target = Target::everyone();
        let mut continuity = Continuity::default();
        continuity.begin(target.clone(), Position(5));
        continuity.set_broken(true);
        assert_eq!(continuity.see(&target, place(8, 9)), Seen::TooEarly);
        assert_eq!(continuity.of(std::slice::from_ref(&target)), [(target.clone(), Position(5))]);
        continuity.set_broken(false);
        assert_eq!(continuity.see(&target, place(8, 9)), Seen::Hole(Position(5)));
    }

    #[test]
    fn a_log_that_is_not_what_it_was_begins_anew() {
        for (last, tail, is_new_life, from) in [
            (5, 5, false, None),
            (5, 9, false, None),
            (5, 0, false, None),
            (5, 3, false, Some(3)),
            (5, 3, true, Some(0)),
            (5, 0, true, Some(0)),
            (5, 9, true, Some(5)),
            (0, 9, true, None),
        ] {
            let from = from.map(Position);
            assert_eq!(anew(Position(last), Position(tail), is_new_life), from, "{last} {tail}");
        }
    }

    #[test]
    fn what_came_before_the_beginning_was_asked_is_no_hole() {
        let target = Target::everyone();
        let mut continuity = Continuity::default();
        assert_eq!(continuity.see(&target, place(4, 6)), Seen::Next);
        continuity.begin(target.clone(), Position(5));
        assert_eq!(continuity.see(&target, place(6, 7)), Seen::Next);
        assert_eq!(continuity.all(), [(target.clone(), Position(7))]);
        continuity.begin_anew(&target, Position(2));
        assert_eq!(continuity.see(&target, place(2, 3)), Seen::Next);
        assert_eq!(continuity.of(std::slice::from_ref(&target)), [(target.clone(), Position(3))]);
        continuity.end(&target);
        assert_eq!(continuity.all(), []);
        continuity.begin_anew(&target, Position(2));
        assert_eq!(continuity.of(&[target]), []);
    }
}
