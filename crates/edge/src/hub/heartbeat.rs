//! When to ping whom, and who has gone silent. Pure: time goes in, keys come out.
//!
//! Every connection has the same interval and timeout, so two queues in order of time are enough: no timer per
//! connection.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::ConnectionId;

#[derive(Clone, Copy, Debug)]
pub(crate) struct HeartbeatTimes {
    /// From one ping to the next.
    pub(crate) interval: Duration,
    /// From a ping to the end of a connection that has not answered.
    pub(crate) timeout: Duration,
}

/// A due check of a connection; it may have closed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Ping(ConnectionId),
    /// The ping sent at this time must have been answered.
    Answer(ConnectionId),
}

#[derive(Debug)]
pub(crate) struct Heartbeat {
    times: HeartbeatTimes,
    pings: VecDeque<(Instant, ConnectionId)>,
    answers: VecDeque<(Instant, ConnectionId)>,
}

impl Heartbeat {
    pub(crate) fn new(times: HeartbeatTimes) -> Self {
        Self { times, pings: VecDeque::new(), answers: VecDeque::new() }
    }

    /// The connection is to be pinged one interval from now.
    pub(crate) fn schedule(&mut self, id: ConnectionId, now: Instant) {
        self.pings.push_back((now + self.times.interval, id));
    }

    /// The connection was pinged and must answer within the timeout.
    pub(crate) fn expect_answer(&mut self, id: ConnectionId, now: Instant) {
        self.answers.push_back((now + self.times.timeout, id));
    }

    /// When the next check is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        let front = |queue: &VecDeque<(Instant, ConnectionId)>| queue.front().map(|(at, _)| *at);
        [front(&self.pings), front(&self.answers)].into_iter().flatten().min()
    }

    /// The next check that is due by `now`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Due> {
        let due = |queue: &mut VecDeque<(Instant, ConnectionId)>| queue.pop_front_if(|(at, _)| *at <= now);
        if let Some((_, id)) = due(&mut self.answers) {
            return Some(Due::Answer(id));
        }
        due(&mut self.pings).map(|(_, id)| Due::Ping(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_come_after_the_interval_and_answers_are_due_after_the_timeout() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut heartbeat = Heartbeat::new(HeartbeatTimes { interval: 25 * second, timeout: 20 * second });
        assert_eq!(heartbeat.next(), None);
        heartbeat.schedule(1, now);
        heartbeat.schedule(2, now + second);
        assert_eq!(heartbeat.next(), Some(now + 25 * second));
        assert_eq!(heartbeat.pop(now + 24 * second), None);
        assert_eq!(heartbeat.pop(now + 25 * second), Some(Due::Ping(1)));
        assert_eq!(heartbeat.pop(now + 25 * second), None);
        heartbeat.expect_answer(1, now + 25 * second);
        assert_eq!(heartbeat.pop(now + 45 * second), Some(Due::Answer(1)));
        assert_eq!(heartbeat.pop(now + 45 * second), Some(Due::Ping(2)));
        assert_eq!(heartbeat.next(), None);
    }
}
