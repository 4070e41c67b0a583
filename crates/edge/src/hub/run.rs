//! A shard's task: the order in which it looks at its queues.

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::heartbeat::HeartbeatTimes;
use super::outbox::OutboxLimits;
use super::shard::Shard;
use super::{Batch, Command, ShardQueues};
use crate::catchup::Lagging;
use crate::metrics::HubMetrics;
use crate::pressure::Lateness;

/// What every shard is told.
#[derive(Clone)]
pub(crate) struct ShardConfig {
    pub(crate) heartbeat: HeartbeatTimes,
    pub(crate) outbox: OutboxLimits,
    /// One clock gives all positions, so a connection's last one says where it stands in every channel.
    pub(crate) one_clock: bool,
    /// Where connections that lag ask for a catch-up.
    pub(crate) lagging: mpsc::Sender<Lagging>,
    pub(crate) metrics: HubMetrics,
    pub(crate) lateness: Lateness,
}

/// Commands taken at once.
const COMMANDS_AT_ONCE: usize = 256;
/// Outboxes appended to before the shard looks at its queues again.
const RECIPIENTS_AT_ONCE: usize = 16_384;

/// A batch that is being appended to outboxes, and how far.
struct Appending {
    batch: Batch,
    next: usize,
}

/// Runs a shard until both of its queues are closed.
///
/// Order: commands before messages, so that whoever has just joined gets what comes next; after each turn one slice of
/// outboxes is written, whatever else waits, so that neither a flood of commands nor of messages holds up writing. While
/// outboxes rest ([`super::rhythm`]) and nothing is appended, the shard sleeps.
pub(crate) async fn run(config: ShardConfig, mut queues: ShardQueues) {
    let mut shard = Shard::new(config, queues.audience);
    let mut commands: Vec<Command> = Vec::with_capacity(COMMANDS_AT_ONCE);
    let mut appending: Option<Appending> = None;
    loop {
        let next_beat = shard.next_heartbeat();
        let now = Instant::now();
        let next_write = shard.next_write(now);
        let works_on = appending.is_some() || next_write.is_some_and(|at| at <= now);
        tokio::select! {
            biased;
            taken = queues.commands.recv_many(&mut commands, COMMANDS_AT_ONCE) => {
                if taken == 0 {
                    return;
                }
                commands.drain(..).for_each(|command| shard.obey(command));
            }
            Some(batch) = queues.batches.recv(), if appending.is_none() => {
                appending = Some(Appending { batch, next: 0 });
            }
            Some(id) = shard.blocked.next() => shard.unblock(id),
            () = sleep_until(next_beat.unwrap_or_else(Instant::now)), if next_beat.is_some() => {
                shard.beat(Instant::now());
            }
            () = tokio::task::yield_now(), if works_on => {}
            () = sleep_until(next_write.unwrap_or(now)), if next_write.is_some() && !works_on => {}
        }
        appending = appending.and_then(|appending| appending.some(&mut shard));
        shard.flush_slice();
    }
}

impl Appending {
    /// Appends some of it; hands back what is left.
    fn some(mut self, shard: &mut Shard) -> Option<Self> {
        let mut recipients = 0;
        while recipients < RECIPIENTS_AT_ONCE {
            recipients += shard.deliver(self.batch.get(self.next)?);
            self.next += 1;
        }
        Some(self)
    }
}
