//! Channel → connections, and what each connection still has to be sent.
//!
//! The hub is split into shards, one task each: a shard alone owns the outboxes of its connections, so a fan-out takes
//! no lock. Everybody else talks to a shard by bounded commands, in order. What a target is on Redis, and what a client
//! asked for, is not known here.

mod audience;
mod heartbeat;
mod outbox;
mod passes;
mod rhythm;
mod run;
mod shard;
mod sink;
mod slot;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use herald_wire::{Position, Target};
use tokio::sync::{Notify, mpsc, oneshot};

pub(crate) use heartbeat::HeartbeatTimes;
pub(crate) use outbox::{Class, Frame, OutboxLimits};
pub(crate) use run::{ShardConfig, run};
#[cfg(test)]
pub(crate) use shard::Shard;
pub(crate) use sink::Sink;
pub(crate) use slot::OneOfCopies;

use self::audience::{Audience, ShardAudience};
use crate::delivery::{Delivery, Encoding};

/// Unique within the edge's life.
pub(crate) type ConnectionId = u64;

/// What one read of the feed brought for a shard, in order.
pub(crate) type Batch = Vec<Arc<Delivery>>;

/// Commands a shard has not looked at yet.
const COMMANDS_MAX: usize = 4_096;
/// Batches a shard has not looked at yet; each holds up to `feed::BATCH_MAX` messages.
const BATCHES_MAX: usize = 16;

/// What the owner of a connection must hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Another connection holds this socketId now.
    Superseded(Target),
    /// The session's record is gone from Redis.
    Unrecorded,
    /// The connection is over.
    Close(CloseReason),
}

/// Why the edge ends a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// It did not answer a ping in time.
    PingTimeout,
    /// Its socket failed.
    WriteFailed,
    /// It asks and does not read the answers.
    NotReading,
    /// The edge is stopping: the client should come back, to another edge.
    Draining,
    /// Somebody asked for it by `Disconnect`.
    Disconnected(String),
    /// Its session goes on on another connection.
    Resumed,
    /// The edge could not keep its promise to it: the client should come back and resume.
    Unavailable,
}

impl CloseReason {
    /// For metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::PingTimeout => "ping_timeout",
            Self::WriteFailed => "write_failed",
            Self::NotReading => "not_reading",
            Self::Draining => "draining",
            Self::Disconnected(_) => "disconnected",
            Self::Resumed => "resumed",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A connection as others know it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    /// It answered, or asked, since it was last pinged.
    heard: AtomicBool,
    signals: std::sync::Mutex<Signals>,
    signalled: Notify,
    /// How many connections are open; this one counts until it is dropped.
    open: Arc<AtomicU64>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Signals {
    superseded: Option<Target>,
    unrecorded: bool,
    close: Option<CloseReason>,
}

impl Connection {
    fn new(id: ConnectionId, open: Arc<AtomicU64>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        let heard = AtomicBool::new(true);
        Self { id, heard, signals: std::sync::Mutex::default(), signalled: Notify::new(), open }
    }

    /// It was pinged: only what it says from now on counts.
    fn ask(&self) {
        self.heard.store(false, Ordering::Relaxed);
    }

    fn was_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    /// The client showed that it is there.
    pub(crate) fn hear(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Tells the connection's owner; the first reason to close stands.
    pub(crate) fn signal(&self, signal: Signal) {
        {
            let mut signals = self.lock();
            match signal {
                Signal::Superseded(target) => signals.superseded = Some(target),
                Signal::Unrecorded => signals.unrecorded = true,
                Signal::Close(reason) => drop(signals.close.get_or_insert(reason)),
            }
        }
        self.signalled.notify_one();
    }

    /// Waits for the next signal. Cancel safe.
    pub(crate) async fn signalled(&self) -> Signal {
        loop {
            {
                let mut signals = self.lock();
                if let Some(target) = signals.superseded.take() {
                    return Signal::Superseded(target);
                }
                if let Some(reason) = signals.close.clone() {
                    return Signal::Close(reason);
                }
                if std::mem::take(&mut signals.unrecorded) {
                    return Signal::Unrecorded;
                }
            }
            self.signalled.notified().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Signals> {
        self.signals.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Where a connection stands in the channels' logs, when its shard lets go of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parting {
    /// The last position written of the connection's own mailbox.
    pub(crate) mailbox: Option<Position>,
}

/// What is to be done with a connection. Commands for one connection are obeyed in the order sent.
pub(crate) enum Command {
    /// A connection appears.
    Open { connection: Arc<Connection>, encoding: Encoding, sink: Sink },
    /// Deliver to it what these targets get from now on.
    /// `explicit_acks`: from now on the client says itself what of its mailbox it has.
    Join { id: ConnectionId, joins: Vec<Join>, explicit_acks: bool },
    /// No more.
    Leave { id: ConnectionId, targets: Vec<Target> },
    /// A reply or an event of the edge itself.
    Send { id: ConnectionId, bytes: Bytes },
    /// It changed its transport: `first` was handed to the old sink and not taken.
    Switch { id: ConnectionId, encoding: Encoding, sink: Sink, first: Vec<Bytes> },
    /// It catches up: hold back what is live, until the page that reaches it.
    Hold { id: ConnectionId, held: oneshot::Sender<Standing> },
    /// Entries of its logs. Answered when there is room for more.
    Page { id: ConnectionId, page: Page, done: oneshot::Sender<PageDone> },
    /// Write `farewell` if the socket takes it, and forget the connection.
    Close { id: ConnectionId, farewell: Bytes, parting: oneshot::Sender<Parting> },
    /// Up to where this one's mailbox was written.
    Mark { id: ConnectionId, mark: oneshot::Sender<Option<Position>> },
    /// Up to where mailboxes were written since the last time.
    TakeMarks { marks: oneshot::Sender<Vec<(Target, Position)>> },
}

/// A target that a connection joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Join {
    pub(crate) target: Target,
    /// Nothing up to here is due to it: the session joined later, or the client has it.
    pub(crate) floor: Position,
    /// What its log holds beyond the floor is due: read it before what is live.
    pub(crate) replay: bool,
    /// Where the session joined: what stands from there to the floor, the client has.
    pub(crate) joined: Position,
}

/// Where to begin to read a target's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Begin {
    pub(crate) target: Target,
    pub(crate) after: Position,
    /// What stands from here to `after`, another connection of the same session was given.
    pub(crate) joined: Position,
}

/// Where a connection stands when a catch-up is about to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The last reliable position handed to the connection, by any channel.
    pub(crate) position: Position,
    /// Its targets, and from where to read each that the catch-up does not know yet.
    pub(crate) targets: Vec<Begin>,
}

/// Entries read from a connection's logs, merged in order of position.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) frames: Vec<OneOfCopies>,
    /// `Some` when the logs are read to their end: for each target, up to where. What was held back of it beyond follows.
    pub(crate) reached: Option<Vec<(Target, Position)>>,
}

/// What became of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageDone {
    /// There is room for the next: read on.
    Continue,
    /// The connection is live again.
    Live,
}

/// The handle everybody shares.
#[derive(Clone, Debug)]
pub(crate) struct Hub {
    shards: Arc<[ShardHandle]>,
    audience: Audience,
    next_id: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
}

#[derive(Debug)]
struct ShardHandle {
    commands: mpsc::Sender<Command>,
    batches: mpsc::Sender<Batch>,
}

/// A shard's ends of its queues, and of what the hub knows of its members.
pub(crate) struct ShardQueues {
    pub(crate) audience: ShardAudience,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) batches: mpsc::Receiver<Batch>,
}

/// The shard that a command is for has ended, and with it the process.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the hub has ended")]
pub(crate) struct HubEnded;

impl Hub {
    /// A hub of `shards` shards, and the queues that each is to be [`run`] with.
    pub(crate) fn new(shards: usize) -> (Self, Vec<ShardQueues>) {
        let audience = Audience::new(shards.max(1));
        let (handles, queues): (Vec<_>, Vec<_>) = (0..shards.max(1))
            .map(|shard| {
                let (commands, commands_rx) = mpsc::channel(COMMANDS_MAX);
                let (batches, batches_rx) = mpsc::channel(BATCHES_MAX);
                let audience = audience.of(shard);
                (
                    ShardHandle { commands, batches },
                    ShardQueues { audience, commands: commands_rx, batches: batches_rx },
                )
            })
            .unzip();
        let next_id = Arc::new(AtomicU64::new(1));
        (Self { shards: handles.into(), audience, next_id, open: Arc::default() }, queues)
    }

    /// How many connections are open.
    pub(crate) fn connections(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Opens a connection.
    pub(crate) async fn open(&self, encoding: Encoding, sink: Sink) -> Result<Arc<Connection>, HubEnded> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection::new(id, self.open.clone()));
        let opened = Command::Open { connection: connection.clone(), encoding, sink };
        self.send(connection.id, opened).await?;
        Ok(connection)
    }

    /// Hands a command to the shard of this connection; waits while its queue is full.
    pub(crate) async fn send(&self, id: ConnectionId, command: Command) -> Result<(), HubEnded> {
        let shard = id as usize % self.shards.len();
        let place = self.shards[shard].commands.reserve().await.map_err(|_| HubEnded)?;
        if let Command::Join { joins, .. } = &command {
            self.audience.join(shard, joins.iter().map(|join| &join.target));
        }
        place.send(command);
        Ok(())
    }

    /// Hands what the feed brought to the shards that have members for it, in order; waits while a queue is full.
    pub(crate) async fn deliver(&self, batch: &[Arc<Delivery>]) -> Result<(), HubEnded> {
        let parts = self.shards.iter().zip(self.audience.parts(batch));
        for (shard, part) in parts.filter(|(_, part)| !part.is_empty()) {
            shard.batches.send(part).await.map_err(|_| HubEnded)?;
        }
        Ok(())
    }

    /// How full the fullest queue of batches is, 0 to 1000.
    pub(crate) fn fullness_permille(&self) -> u32 {
        let free = self.shards.iter().map(|shard| shard.batches.capacity()).min().unwrap_or(BATCHES_MAX);
        ((BATCHES_MAX - free) * 1000 / BATCHES_MAX) as u32
    }

    /// Up to where mailboxes were written since the last time asked.
    pub(crate) async fn take_marks(&self) -> Vec<(Target, Position)> {
        let mut all = Vec::new();
        for shard in self.shards.iter() {
            let (marks, taken) = oneshot::channel();
            if shard.commands.send(Command::TakeMarks { marks }).await.is_ok() {
                all.extend(taken.await.unwrap_or_default());
            }
        }
        all
    }
}
