//! Which fault happens when, to whom, and for how long. Pure: a seed decides all of it.

use std::fmt;
use std::time::Duration;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Before the first fault.
    None,
    /// `kill -9`, and started again after a while.
    IngestKilled,
    /// SIGTERM, and started again.
    IngestRestarted,
    /// `kill -9`.
    EdgeKilled,
    /// SIGTERM: it drains.
    EdgeRestarted,
    /// SIGSTOP: there, but silent.
    EdgeFrozen,
    /// `kill -9`.
    RegistryKilled,
    /// SIGTERM.
    RegistryRestarted,
    /// Ended in order.
    RedisRestarted,
    /// `kill -9`.
    RedisKilled,
    /// SIGSTOP.
    RedisFrozen,
    /// Redis closes its subscribers' connections.
    FeedClosed,
    /// Ended in order.
    RabbitmqRestarted,
    /// Every AMQP connection is closed by force.
    AmqpClosed,
    /// Both ends see the connection close.
    NetworkCut,
    /// The client's end is gone, the edge does not notice.
    HalfOpen,
    /// It stays connected and does not read.
    ReaderStalled,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::None => "no fault yet",
            Self::IngestKilled => "ingest killed",
            Self::IngestRestarted => "ingest restarted",
            Self::EdgeKilled => "edge killed",
            Self::EdgeRestarted => "edge restarted",
            Self::EdgeFrozen => "edge frozen",
            Self::RegistryKilled => "registry killed",
            Self::RegistryRestarted => "registry restarted",
            Self::RedisRestarted => "Redis restarted",
            Self::RedisKilled => "Redis killed",
            Self::RedisFrozen => "Redis frozen",
            Self::FeedClosed => "feed closed by Redis",
            Self::RabbitmqRestarted => "RabbitMQ restarted",
            Self::AmqpClosed => "AMQP connections closed",
            Self::NetworkCut => "client's network cut",
            Self::HalfOpen => "client's network cut, edge unaware",
            Self::ReaderStalled => "client stops reading",
        };
        f.pad(text)
    }
}

/// Things that fail independently of each other; within one, one fault follows another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Ingests,
    Edges,
    Registries,
    Redis,
    Rabbitmq,
    Clients,
}

impl Lane {
    pub(super) const ALL: [Self; 6] =
        [Self::Ingests, Self::Edges, Self::Registries, Self::Redis, Self::Rabbitmq, Self::Clients];

    /// What happens there, and the mean time between two faults in milliseconds.
    fn of(self) -> (&'static [Kind], u64) {
        match self {
            Self::Ingests => (&[Kind::IngestKilled, Kind::IngestRestarted], 9_000),
            Self::Edges => (&[Kind::EdgeKilled, Kind::EdgeRestarted, Kind::EdgeFrozen], 6_000),
            Self::Registries => (&[Kind::RegistryKilled, Kind::RegistryRestarted], 15_000),
            Self::Redis => {
                (&[Kind::RedisRestarted, Kind::RedisKilled, Kind::RedisFrozen, Kind::FeedClosed], 10_000)
            }
            Self::Rabbitmq => (&[Kind::AmqpClosed, Kind::RabbitmqRestarted], 15_000),
            Self::Clients => (&[Kind::NetworkCut, Kind::HalfOpen, Kind::ReaderStalled], 400),
        }
    }
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// After the one before it in its lane is over.
    pub(super) after: Duration,
    pub(super) kind: Kind,
    /// Modulo how many there are.
    pub(super) victim: usize,
    pub(super) lasts: Duration,
}

/// The faults of a lane, without end: first each kind once, in an order of its own, then any.
pub(super) fn faults(lane: Lane, seed: u64) -> impl Iterator<Item = Fault> {
    let (kinds, mean_ms) = lane.of();
    let mut random = fastrand::Rng::with_seed(seed ^ (lane as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut first = kinds.to_vec();
    random.shuffle(&mut first);
    std::iter::repeat_with(move || Fault {
        after: Duration::from_millis(random.u64(mean_ms / 4..mean_ms * 7 / 4)),
        kind: first.pop().unwrap_or_else(|| kinds[random.usize(..kinds.len())]),
        victim: random.usize(..1 << 16),
        lasts: Duration::from_millis(random.u64(100..3_500)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything_and_every_kind_comes_soon() {
        for lane in Lane::ALL {
            let some = |seed| faults(lane, seed).take(20).collect::<Vec<_>>();
            assert_eq!(some(7), some(7));
            assert_ne!(some(7), some(8));
            let (kinds, _) = lane.of();
            let mut first: Vec<Kind> = some(7).iter().take(kinds.len()).map(|fault| fault.kind).collect();
            first.sort();
            let mut all = kinds.to_vec();
            all.sort();
            assert_eq!(first, all);
        }
    }
}
