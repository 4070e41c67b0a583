//! One connection that messages come in on. It hands them to the feed's queue, watches itself, and once it is lost it
//! stays lost. What it should carry, and making a new one, is `carrier`'s.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use herald_wire::{Names, Target};
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, RedisError, RedisResult, Value};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::deployment::{CONNECT_TIMEOUT, Place, within};
use crate::queue::{FeedQueue, Source};

/// A frozen server takes commands and never answers: it is asked this often,
const PING_EVERY: Duration = Duration::from_secs(1);
/// and lost when neither an answer nor a message came within this.
const SILENCE_MAX: Duration = Duration::from_millis(2_500);
/// Channels in one command. Redis runs nothing else meanwhile.
pub(super) const CHANNELS_MAX: usize = 1_000;

pub(super) struct Link {
    connection: MultiplexedConnection,
    ears: Arc<Ears>,
    sharded: bool,
    _watch: AbortOnDropHandle<()>,
}

/// What the connection's own task calls.
struct Ears {
    names: Arc<Names>,
    queue: Arc<FeedQueue>,
    source: Source,
    /// Woken when the link is lost.
    lost: Arc<Notify>,
    /// Confirmations of unsubscriptions that were asked for and are still to come.
    leaving: AtomicUsize,
    /// Messages so far; wraps.
    heard: AtomicUsize,
}

/// What a link needs from the feed it is part of.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) names: Arc<Names>,
    pub(super) queue: Arc<FeedQueue>,
    pub(super) lost: Arc<Notify>,
    pub(super) sharded: bool,
}

impl Link {
    pub(super) async fn open(place: &Place, around: &Surroundings) -> RedisResult<Self> {
        let ears = Arc::new(Ears {
            names: around.names.clone(),
            queue: around.queue.clone(),
            source: Source::new(),
            lost: around.lost.clone(),
            leaving: AtomicUsize::new(0),
            heard: AtomicUsize::new(0),
        });
        let on_push = {
            let ears = ears.clone();
            move |push| ears.hear(push)
        };
        let mut connection = place.connect(on_push).await?;
        // a Redis that is still loading its data takes subscriptions already, and would have empty logs
        within(CONNECT_TIMEOUT, redis::cmd("PING").exec_async(&mut connection)).await?;
        let mut name = redis::cmd("CLIENT");
        name.arg("SETNAME").arg(around.names.feed_client());
        if let Err(error) = within(CONNECT_TIMEOUT, name.exec_async(&mut connection)).await {
            // it only serves those who ask how far behind the feed is
            tracing::debug!(%error, "Redis does not let the feed name its connection");
        }
        let watch = tokio::spawn(watch(connection.clone(), ears.clone()));
        Ok(Self { connection, ears, sharded: around.sharded, _watch: AbortOnDropHandle::new(watch) })
    }

    pub(super) fn is_live(&self) -> bool {
        self.ears.source.is_live()
    }

    pub(super) fn lose(&self) {
        self.ears.lose();
    }

    /// Subscribes; returns those that are, which is all of them unless the error says otherwise.
    pub(super) async fn subscribe(&mut self, targets: &[Target]) -> (Vec<Target>, RedisResult<()>) {
        let mut done = Vec::with_capacity(targets.len());
        for batch in targets.chunks(CHANNELS_MAX) {
            let names: Vec<_> = batch.iter().map(|target| self.ears.names.channel(target)).collect();
            let outcome = if self.sharded {
                self.each("SSUBSCRIBE", &names, |index| done.push(batch[index].clone())).await
            } else {
                let outcome = self.ears.patiently(self.connection.subscribe(&names)).await;
                if outcome.is_ok() {
                    done.extend_from_slice(batch);
                }
                outcome
            };
            if outcome.is_err() {
                return (done, self.checked(outcome));
            }
        }
        (done, Ok(()))
    }

    pub(super) async fn unsubscribe(&mut self, targets: &[Target]) -> RedisResult<()> {
        for batch in targets.chunks(CHANNELS_MAX) {
            let names: Vec<_> = batch.iter().map(|target| self.ears.names.channel(target)).collect();
            self.ears.leaving.fetch_add(names.len(), Ordering::AcqRel);
            let outcome = if self.sharded {
                self.each("SUNSUBSCRIBE", &names, |_| {}).await
            } else {
                self.ears.patiently(self.connection.unsubscribe(&names)).await
            };
            self.checked(outcome)?;
        }
        Ok(())
    }

    /// One command per channel, pipelined: channels of one command must share a slot.
    async fn each(
        &mut self,
        command: &str,
        names: &[String],
        mut done: impl FnMut(usize),
    ) -> RedisResult<()> {
        let mut pipeline = redis::pipe();
        for name in names {
            pipeline.cmd(command).arg(name);
        }
        let answers =
            within(SILENCE_MAX, self.connection.send_packed_commands(&pipeline, 0, names.len())).await?;
        let mut outcome = Ok(());
        for (index, answer) in answers.into_iter().enumerate() {
            match answer {
                Value::ServerError(error) => outcome = Err(RedisError::from(error)),
                _ => done(index),
            }
        }
        outcome
    }

    /// What is not Redis' own answer leaves the connection in an unknown state.
    fn checked(&self, outcome: RedisResult<()>) -> RedisResult<()> {
        if let Err(error) = &outcome
            && error.code().is_none()
        {
            self.lose();
        }
        outcome
    }
}

impl Ears {
    fn hear(&self, push: PushInfo) {
        match push.kind {
            PushKind::Message | PushKind::SMessage => {
                self.heard.fetch_add(1, Ordering::Relaxed);
                if let Some((target, envelope)) = self.message(push.data)
                    && !self.queue.message(&self.source, target, envelope)
                {
                    self.lose();
                }
            }
            PushKind::Unsubscribe | PushKind::SUnsubscribe => {
                // one that nobody asked for: the slot moved, or the node was demoted. The client library takes it
                // for the answer to whatever was asked next, so the connection cannot be used further either.
                let asked = |leaving: usize| leaving.checked_sub(1);
                if self.leaving.fetch_update(Ordering::AcqRel, Ordering::Acquire, asked).is_err() {
                    self.lose();
                }
            }
            PushKind::Disconnection => self.lose(),
            _ => {}
        }
    }

    fn message(&self, data: Vec<Value>) -> Option<(Target, Bytes)> {
        let mut parts = data.into_iter();
        let (Some(Value::BulkString(channel)), Some(Value::BulkString(envelope))) =
            (parts.next(), parts.next())
        else {
            return None;
        };
        let target = Target::from_text(self.names.target_of(std::str::from_utf8(&channel).ok()?)?)?;
        Some((target, Bytes::from(envelope)))
    }

    /// Waits for an answer as long as there are signs of life: behind a backlog of messages it takes its time.
    async fn patiently<T>(&self, answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
        let mut answer = pin!(answer);
        loop {
            let heard_before = self.heard.load(Ordering::Relaxed);
            let outcome = within(SILENCE_MAX, async { Ok(answer.as_mut().await) }).await;
            match outcome {
                Ok(outcome) => return outcome,
                Err(_) if self.heard.load(Ordering::Relaxed) != heard_before => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn lose(&self) {
        self.queue.lost(&self.source);
        self.lost.notify_one();
    }
}

/// Loses the link when its server falls silent.
async fn watch(mut connection: MultiplexedConnection, ears: Arc<Ears>) {
    let ping = redis::cmd("PING");
    loop {
        sleep(PING_EVERY).await;
        if ears.patiently(ping.exec_async(&mut connection)).await.is_err() {
            return ears.lose();
        }
    }
}
