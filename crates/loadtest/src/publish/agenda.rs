//! Which message one publisher sends next. Pure, but for the clock's thread.

use std::time::Duration;

use crate::clock::{now_us, until};
use crate::plan::{Round, Stream};
use crate::schedule::Schedule;

/// One message to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Job {
    pub(crate) stream: u8,
    pub(crate) target: u32,
    pub(crate) number: u32,
    pub(crate) at_us: u64,
}

/// The messages of one publisher, in the order in which they are due.
#[derive(Debug)]
pub(crate) struct Agenda {
    /// Each stream's schedule, and the index of the next message.
    streams: Vec<(Schedule, u64)>,
    lane: u32,
    lanes: u32,
}

impl Agenda {
    /// Of the streams that it takes, the messages to every target whose number leaves `lane` when divided by `lanes`.
    pub(crate) fn new(round: &Round, takes: impl Fn(&Stream) -> bool, (lane, lanes): (u32, u32)) -> Self {
        let begin = |stream: &Stream| if takes(stream) { 0 } else { stream.schedule.count };
        let streams = round.streams.iter().map(|stream| (stream.schedule, begin(stream))).collect();
        let mut agenda = Self { streams, lane, lanes };
        for stream in 0..agenda.streams.len() {
            agenda.skip_others(stream);
        }
        agenda
    }

    /// The next message that is due.
    pub(crate) fn next(&mut self, now_us: u64) -> Option<Job> {
        let pending = self.streams.iter().enumerate().filter(|(_, (schedule, next))| *next < schedule.count);
        let (stream, at_us) = pending
            .map(|(stream, (schedule, next))| (stream, schedule.at_us(*next)))
            .min_by_key(|(_, at)| *at)?;
        if at_us > now_us {
            return None;
        }
        let (schedule, next) = &mut self.streams[stream];
        let arrival = schedule.arrival(*next);
        *next += 1;
        self.skip_others(stream);
        Some(Job { stream: stream as u8, target: arrival.target, number: arrival.number, at_us })
    }

    /// Whether everything was sent.
    pub(crate) fn is_done(&self) -> bool {
        self.streams.iter().all(|(schedule, next)| *next >= schedule.count)
    }

    fn skip_others(&mut self, stream: usize) {
        let (schedule, next) = &mut self.streams[stream];
        let is_ours = |index: u64| (index % u64::from(schedule.targets)) as u32 % self.lanes == self.lane;
        while *next < schedule.count && !is_ours(*next) {
            *next += 1;
        }
    }
}

/// Tells when something is due, until nothing will be or nobody listens: at the time itself, but not more often than
/// `every`.
pub(super) fn tick(streams: &[Schedule], every: Duration, mut tell: impl FnMut() -> bool) {
    loop {
        let now = now_us();
        let next = streams
            .iter()
            .map(|schedule| (schedule, schedule.due(now)))
            .filter(|(schedule, due)| *due < schedule.count)
            .map(|(schedule, due)| schedule.at_us(due))
            .min();
        if !tell() {
            return;
        }
        let Some(next_us) = next else { return };
        std::thread::sleep(until(next_us).max(every));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Audience;
    use proptest::prelude::*;

    fn stream(rate: f64, count: u64, targets: u32) -> Stream {
        let schedule = Schedule { start_us: 1_000, rate, count, targets };
        Stream { audience: Audience::Group, reliable: true, schedule }
    }

    proptest! {
        #[test]
        fn publishers_share_all_messages_each_in_its_order(
            shapes in prop::collection::vec((1.0_f64..1e5, 0_u64..300, 1_u32..20), 1..4), lanes in 1_u32..5
        ) {
            let streams: Vec<Stream> = shapes.iter().map(|(r, c, t)| stream(*r, *c, *t)).collect();
            let round = Round { run: 1, streams, measure_from_us: 0, start_us: 0, end_us: 0, storm: None };
            let mut all = Vec::new();
            for lane in 0..lanes {
                let mut agenda = Agenda::new(&round, |_| true, (lane, lanes));
                let jobs: Vec<Job> = std::iter::from_fn(|| agenda.next(u64::MAX)).collect();
                prop_assert!(agenda.is_done());
                prop_assert!(jobs.iter().all(|job| job.target % lanes == lane));
                prop_assert!(jobs.is_sorted_by_key(|job| job.at_us));
                all.extend(jobs);
            }
            all.sort();
            all.dedup();
            prop_assert_eq!(all.len() as u64, shapes.iter().map(|(_, count, _)| count).sum::<u64>());
        }
    }

    #[test]
    fn nothing_leaves_early_and_nothing_is_skipped_when_late() {
        let round = Round {
            run: 1,
            streams: vec![stream(1_000.0, 3, 1)],
            measure_from_us: 0,
            start_us: 0,
            end_us: 0,
            storm: None,
        };
        let mut agenda = Agenda::new(&round, |_| true, (0, 1));
        assert_eq!(agenda.next(999), None);
        assert_eq!(agenda.next(1_000).map(|job| job.number), Some(1));
        assert_eq!(agenda.next(1_999), None);
        assert_eq!(agenda.next(9_000).map(|job| (job.number, job.at_us)), Some((2, 2_000)));
        assert_eq!(agenda.next(9_000).map(|job| (job.number, job.at_us)), Some((3, 3_000)));
        assert!(agenda.is_done());
    }

    #[test]
    fn a_stream_that_is_not_taken_is_another_one_s() {
        let mut streams = vec![stream(1_000.0, 3, 1), stream(1_000.0, 2, 1)];
        streams[1].reliable = false;
        let round = Round { run: 1, streams, measure_from_us: 0, start_us: 0, end_us: 0, storm: None };
        for (reliable, expected) in [(true, vec![0, 0, 0]), (false, vec![1, 1])] {
            let mut agenda = Agenda::new(&round, |stream| stream.reliable == reliable, (0, 1));
            let taken: Vec<u8> = std::iter::from_fn(|| agenda.next(u64::MAX)).map(|job| job.stream).collect();
            assert_eq!(taken, expected);
            assert!(agenda.is_done());
        }
    }
}
