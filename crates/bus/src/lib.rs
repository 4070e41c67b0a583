//! Publish, subscribe and read the log: on Redis, and in memory with the same semantics. One test suite
//! (`tests/suite`) holds both to them.
//!
//! What must not live here: what an envelope's body means, who wants which target, retries of a publication. An
//! envelope is bytes; the bus appends a reliable message's place to it and reads that place back, nothing more.
//!
//! # Semantics
//!
//! - A **volatile** publication reaches the feeds that are subscribed to its target now. With a `message_id` it is
//!   published once within the dedup window.
//! - A **reliable** publication is, in one atomic step, given the next position, appended to its target's log with
//!   that position and the one before it (`prev`), remembered by its `message_id`, and sent to the feeds.
//! - Positions are strictly increasing over all targets of one Redis (in a cluster: over one target), also where the
//!   clock stands still or steps back. A log's entries name each other: `prev` of one is the position of the one
//!   before. The first entry that a log still holds names one that is gone; so does the first entry after a log
//!   expired, because the last position is remembered for twice the log's age.
//! - A message's own expiry is **not** applied here: [`Bus::read_log`] returns expired entries too, so that `prev`
//!   chains stay whole. Whoever delivers leaves them out (`Envelope::is_expired`).
//! - A **feed** starts down. Its first event is `Interrupted { Started }`; from there on nothing is lost without an
//!   event in the very place where it was lost. See [`FeedEvent`].
//!
//! # Choices
//!
//! Commands go through one multiplexed connection per Redis node that reconnects by itself, not through a pool: all
//! calls here are pipelines, which one connection carries as well as several, and a pool's checkout costs a PING
//! each. The cluster's slot map is kept here too, because the client library refuses pipelines across slots and
//! loses sharded subscriptions in silence when it reconnects. The feed stays on the client library: with a reader on
//! the same two cores it takes in 500,000 to 750,000 messages a second, more than an edge hands on.
//!
//! A publication does not name its expiry beside its envelope: nothing here would use it. How far a feed may run
//! ahead is the reader's to say ([`FeedLimits`]), so it is not part of how Redis is reached.

mod config;
mod error;
mod feed;
mod memory;
mod metrics;
mod on_redis;
mod queue;
mod record;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use herald_wire::{Cursor, Epoch, Position, Target};

pub use config::{FeedLimits, LogConfig, RedisConfig};
pub use error::BusError;
pub use feed::{Feed, FeedGauge, Subscriptions};
pub use memory::Memory;
pub use on_redis::Redis;
pub use queue::{FeedEvent, Interruption};
pub use record::{Entry, FeedBacklog, Publication, Published};

/// Where messages travel. Cloning is a reference count.
#[derive(Clone, Debug)]
pub enum Bus {
    /// Within this process.
    Memory(Arc<Memory>),
    /// On Redis: one node, one found through Sentinel, or a cluster.
    Redis(Arc<Redis>),
}

impl Bus {
    /// A bus within this process, empty, with an epoch of its own.
    pub fn memory(config: LogConfig) -> Self {
        Self::Memory(Arc::new(Memory::new(config)))
    }

    /// A bus on Redis. Redis need not be up: every call connects when it must, with backoff of at most one second.
    ///
    /// # Errors
    /// [`BusError::Config`] when the URL cannot be used; it never repeats the password.
    #[allow(clippy::unused_async)] // the signature leaves room for a first look at the server
    pub async fn redis(config: RedisConfig) -> Result<Self, BusError> {
        Ok(Self::Redis(Arc::new(Redis::new(config)?)))
    }

    /// Publishes in order; one answer per publication, in the same order. The failure of one says nothing of others.
    ///
    /// Never hangs: what was not answered within the response timeout fails with an error whose
    /// [`BusError::may_have_happened`] is true, and is safe to publish again when it has a `message_id`.
    pub async fn publish(&self, batch: &[Publication]) -> Vec<Result<Published, BusError>> {
        match self {
            Self::Memory(bus) => bus.publish(batch),
            Self::Redis(bus) => bus.publish(batch).await,
        }
    }

    /// Whether the bus answers.
    ///
    /// # Errors
    /// When it does not within the response timeout.
    pub async fn ping(&self) -> Result<(), BusError> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::Redis(bus) => bus.ping().await,
        }
    }

    /// What Redis holds back for each feed that it cannot send to yet; none in memory, where nothing is in between.
    ///
    /// # Errors
    /// When Redis does not answer, or does not allow to list its clients.
    pub async fn feed_backlogs(&self) -> Result<Vec<FeedBacklog>, BusError> {
        match self {
            Self::Memory(_) => Ok(Vec::new()),
            Self::Redis(bus) => bus.feed_backlogs().await,
        }
    }

    /// The life of the data that is there now; begins one where there is none.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn epoch(&self) -> Result<Epoch, BusError> {
        match self {
            Self::Memory(bus) => Ok(bus.epoch()),
            Self::Redis(bus) => bus.epoch().await,
        }
    }

    /// What a cursor names as the place that gave a target's positions: its slot in a cluster,
    /// [`Cursor::ONE_REDIS`] otherwise.
    pub fn slot_of(&self, target: &Target) -> u16 {
        match self {
            Self::Memory(_) => Cursor::ONE_REDIS,
            Self::Redis(bus) => bus.slot_of(target),
        }
    }

    /// A feed and the handle that says what it carries. Call it within a tokio runtime, once per edge.
    pub fn feed(&self, limits: FeedLimits) -> (Subscriptions, Feed) {
        match self {
            Self::Memory(bus) => Memory::feed(bus, limits),
            Self::Redis(bus) => Redis::feed(bus, limits),
        }
    }

    /// Up to `limit` entries of a target's log after a position, oldest first; expired messages included.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn read_log(
        &self,
        target: &Target,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Entry>, BusError> {
        let mut answers = self.read_logs(&[(target.clone(), after)], limit).await?;
        Ok(answers.pop().unwrap_or_default())
    }

    /// [`Bus::read_log`] of many targets at once, up to `limit` entries each, in the order asked.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub async fn read_logs(
        &self,
        from: &[(Target, Position)],
        limit: usize,
    ) -> Result<Vec<Vec<Entry>>, BusError> {
        match self {
            Self::Memory(bus) => Ok(bus.read_logs(from, limit)),
            Self::Redis(bus) => bus.read_logs(from, limit).await,
        }
    }

    /// Of many targets at once: up to `limit` entries at or before a position, newest first, in the order asked.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub async fn read_logs_back(
        &self,
        upto: &[(Target, Position)],
        limit: usize,
    ) -> Result<Vec<Vec<Entry>>, BusError> {
        match self {
            Self::Memory(bus) => Ok(bus.read_logs_back(upto, limit)),
            Self::Redis(bus) => bus.read_logs_back(upto, limit).await,
        }
    }

    /// The position of each target's newest entry, also when that entry is gone; zero where none is known.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub async fn tails(&self, targets: &[Target]) -> Result<Vec<Position>, BusError> {
        match self {
            Self::Memory(bus) => Ok(bus.tails(targets)),
            Self::Redis(bus) => bus.tails(targets).await,
        }
    }

    /// Whether one clock gives all positions: everywhere but in a cluster.
    pub fn has_one_clock(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Redis(bus) => bus.has_one_clock(),
        }
    }

    /// The last position given to any target: whatever is logged after this answer stands beyond it. `None` in a
    /// cluster, where each target has a clock of its own.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn clock(&self) -> Result<Option<Position>, BusError> {
        match self {
            Self::Memory(bus) => Ok(Some(bus.last_given())),
            Self::Redis(bus) => bus.clock().await,
        }
    }

    /// Keeps a session's record for `ttl`.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn save_session(&self, pid: &str, record: Bytes, ttl: Duration) -> Result<(), BusError> {
        match self {
            Self::Memory(bus) => {
                bus.save_session(pid, record, ttl);
                Ok(())
            }
            Self::Redis(bus) => bus.save_session(pid, &record, ttl).await,
        }
    }

    /// Keeps the records of these sessions for `ttl` from now on; answers which are gone, and stay gone.
    ///
    /// # Errors
    /// When Redis does not answer for all of them.
    pub async fn touch_sessions(&self, pids: &[String], ttl: Duration) -> Result<Vec<String>, BusError> {
        match self {
            Self::Memory(bus) => Ok(bus.touch_sessions(pids, ttl)),
            Self::Redis(bus) => bus.touch_sessions(pids, ttl).await,
        }
    }

    /// A session's record, when there still is one.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn load_session(&self, pid: &str) -> Result<Option<Bytes>, BusError> {
        match self {
            Self::Memory(bus) => Ok(bus.load_session(pid)),
            Self::Redis(bus) => bus.load_session(pid).await,
        }
    }

    /// Notes which session registered a target's socketId last, for `ttl`.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn save_holder(&self, target: &Target, pid: &str, ttl: Duration) -> Result<(), BusError> {
        match self {
            Self::Memory(bus) => {
                bus.save_holder(target, pid, ttl);
                Ok(())
            }
            Self::Redis(bus) => bus.save_holder(target, pid, ttl).await,
        }
    }

    /// What [`Bus::save_holder`] noted; `None` when nothing.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn load_holder(&self, target: &Target) -> Result<Option<String>, BusError> {
        match self {
            Self::Memory(bus) => Ok(bus.load_holder(target)),
            Self::Redis(bus) => bus.load_holder(target).await,
        }
    }

    /// Notes up to which position a target's mailbox was sent, for `ttl`. A mark never moves back.
    ///
    /// # Errors
    /// When Redis does not answer for all of them.
    pub async fn save_sent(&self, marks: &[(Target, Position)], ttl: Duration) -> Result<(), BusError> {
        match self {
            Self::Memory(bus) => {
                bus.save_sent(marks, ttl);
                Ok(())
            }
            Self::Redis(bus) => bus.save_sent(marks, ttl).await,
        }
    }

    /// What [`Bus::save_sent`] noted; zero when nothing.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn load_sent(&self, target: &Target) -> Result<Position, BusError> {
        match self {
            Self::Memory(bus) => Ok(bus.load_sent(target)),
            Self::Redis(bus) => bus.load_sent(target).await,
        }
    }
}
