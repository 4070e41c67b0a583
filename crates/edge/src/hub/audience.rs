//! Which shards have members of a channel: a message wakes no other. A member counts from before its shard is told of it
//! until its shard has let go of it, so that a message that comes after a `Join` was sent finds the shard.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use herald_wire::Target;

use super::Batch;
use crate::delivery::Delivery;

/// How many members a channel has in each shard. Most channels are the mailbox of one client.
#[derive(Debug)]
enum Members {
    InOne { shard: u32, count: u32 },
    InMany(Box<[u32]>),
}

/// Cloning is a reference count.
#[derive(Clone, Debug)]
pub(super) struct Audience {
    shards: usize,
    channels: Arc<Mutex<HashMap<Target, Members, RandomState>>>,
}

/// One shard's part of it.
#[derive(Clone, Debug)]
pub(crate) struct ShardAudience {
    audience: Audience,
    shard: usize,
}

impl Audience {
    pub(super) fn new(shards: usize) -> Self {
        Self { shards, channels: Arc::default() }
    }

    pub(super) fn of(&self, shard: usize) -> ShardAudience {
        ShardAudience { audience: self.clone(), shard }
    }

    /// A member more in this shard, of each target.
    pub(super) fn join<'t>(&self, shard: usize, targets: impl Iterator<Item = &'t Target>) {
        let mut channels = self.lock();
        for target in targets {
            match channels.get_mut(target) {
                None => {
                    channels.insert(target.clone(), Members::InOne { shard: shard as u32, count: 1 });
                }
                Some(members) => members.add(shard, self.shards),
            }
        }
    }

    /// What of a batch each shard gets, in order.
    pub(super) fn parts(&self, batch: &[Arc<Delivery>]) -> Vec<Batch> {
        let mut parts = vec![Batch::new(); self.shards];
        let channels = self.lock();
        for delivery in batch {
            match channels.get(&delivery.target) {
                None => {}
                Some(Members::InOne { shard, .. }) => parts[*shard as usize].push(delivery.clone()),
                Some(Members::InMany(counts)) => {
                    let there = parts.iter_mut().zip(counts).filter(|(_, count)| **count > 0);
                    there.for_each(|(part, _)| part.push(delivery.clone()));
                }
            }
        }
        parts
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Target, Members, RandomState>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ShardAudience {
    /// A member of this target less in this shard.
    pub(super) fn left(&self, target: &Target) {
        let mut channels = self.audience.lock();
        if channels.get_mut(target).is_some_and(|members| members.remove(self.shard)) {
            channels.remove(target);
        }
    }
}

impl Members {
    fn add(&mut self, in_shard: usize, shards: usize) {
        match self {
            Self::InOne { shard, count } if *shard as usize == in_shard => *count += 1,
            Self::InOne { shard, count } => {
                let mut counts = vec![0; shards].into_boxed_slice();
                counts[*shard as usize] = *count;
                counts[in_shard] += 1;
                *self = Self::InMany(counts);
            }
            Self::InMany(counts) => counts[in_shard] += 1,
        }
    }

    /// True when nobody is left anywhere.
    fn remove(&mut self, in_shard: usize) -> bool {
        match self {
            Self::InOne { shard, count } => {
                if *shard as usize == in_shard {
                    *count -= 1;
                }
                *count == 0
            }
            Self::InMany(counts) => {
                counts[in_shard] = counts[in_shard].saturating_sub(1);
                counts.iter().all(|count| *count == 0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use herald_wire::Position;
    use proptest::prelude::*;
    use tokio::sync::mpsc;

    use super::*;
    use crate::hub::{Command, HeartbeatTimes, Hub, Join, OutboxLimits, Shard, ShardConfig};
    use crate::metrics::HubMetrics;
    use crate::pressure::Lateness;

    const SHARDS: usize = 3;

    fn target(number: usize) -> Target {
        Target::group(&number.to_string(), 8).unwrap()
    }

    fn config() -> ShardConfig {
        let (lagging, _) = mpsc::channel(1);
        let heartbeat =
            HeartbeatTimes { interval: Duration::from_secs(25), timeout: Duration::from_secs(20) };
        let outbox = OutboxLimits { frames_max: 8, bytes_max: 1_024 };
        let (metrics, lateness) = (HubMetrics::new(), Lateness::new());
        ShardConfig { heartbeat, outbox, one_clock: true, lagging, metrics, lateness }
    }

    fn message(number: usize) -> Arc<Delivery> {
        Arc::new(Delivery::gap(target(number), Position::ZERO, Position::ZERO))
    }

    #[test]
    fn members_are_as_small_as_a_box() {
        assert_eq!(size_of::<Members>(), 16);
    }

    #[tokio::test]
    async fn a_message_wakes_the_shards_that_were_told_of_members() {
        let (hub, mut queues) = Hub::new(2);
        let floor = Position::ZERO;
        let join = Join { target: target(1), floor, replay: false, joined: floor };
        let command = Command::Join { id: 3, joins: vec![join], explicit_acks: false };
        hub.send(3, command).await.unwrap();
        hub.deliver(&[message(1), message(2)]).await.unwrap();
        assert_eq!(queues[1].batches.try_recv().unwrap().len(), 1);
        // its connection has closed before: it never becomes a member
        let mut shard = Shard::new(config(), queues[1].audience.clone());
        shard.obey(queues[1].commands.try_recv().unwrap());
        hub.deliver(&[message(1)]).await.unwrap();
        assert!(queues.iter_mut().all(|queues| queues.batches.try_recv().is_err()));
    }

    proptest! {
        #[test]
        fn each_shard_gets_what_it_has_members_for(
            steps in prop::collection::vec((any::<bool>(), 0..SHARDS, 0..4usize), 0..60),
        ) {
            let audience = Audience::new(SHARDS);
            let mut members = [[0u32; 4]; SHARDS];
            for (joins, shard, channel) in steps {
                if joins {
                    members[shard][channel] += 1;
                    audience.join(shard, [&target(channel)].into_iter());
                } else if members[shard][channel] > 0 {
                    members[shard][channel] -= 1;
                    audience.of(shard).left(&target(channel));
                }
            }
            let batch: Vec<_> = [3, 0, 1, 2, 0].map(message).to_vec();
            let parts = audience.parts(&batch);
            prop_assert_eq!(parts.len(), SHARDS);
            for (part, members) in parts.iter().zip(&members) {
                let due = batch.iter().filter(|d| (0..4).any(|n| members[n] > 0 && d.target == target(n)));
                let due: Vec<_> = due.map(|d| d.target.clone()).collect();
                prop_assert_eq!(part.iter().map(|d| d.target.clone()).collect::<Vec<_>>(), due);
            }
            let known = (0..4).filter(|n| members.iter().any(|of_shard| of_shard[*n] > 0)).count();
            prop_assert_eq!(audience.lock().len(), known);
        }
    }
}
