//! One Redis node for commands: a connection that is made when it is needed and made again when it was lost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, PushInfo, PushKind, RedisError, RedisResult, Value};
use tokio::time::{Instant, sleep, timeout_at};

use super::backoff::Backoff;
use super::deployment::{CONNECT_TIMEOUT, Place, within};
use super::script::Scripts;
use crate::BusError;

pub(super) struct Node {
    place: Place,
    held: Mutex<Option<Arc<Held>>>,
    /// Held by the one who connects; others wait for what comes of it.
    connecting: tokio::sync::Mutex<Backoff>,
    last_error: Mutex<Option<RedisError>>,
}

struct Held {
    connection: MultiplexedConnection,
    live: Arc<AtomicBool>,
    answers: AtomicU64,
}

/// How long a call may take.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    /// To get a connection.
    connected_by: Instant,
    /// To get the answers.
    answered_by: Instant,
    /// What the caller waits in all, for the error's text.
    given: Duration,
}

/// Where another node may have taken over, a dead one is not waited for longer than this.
const FAILOVER_AFTER: Duration = Duration::from_secs(1);

impl Limit {
    pub(super) fn new(deadline: Instant, given: Duration, may_fail_over: bool) -> Self {
        let connected_by =
            if may_fail_over { deadline.min(Instant::now() + FAILOVER_AFTER) } else { deadline };
        Self { connected_by, answered_by: deadline, given }
    }
}

impl Node {
    pub(super) fn new(place: Place) -> Self {
        Self {
            place,
            held: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            last_error: Mutex::default(),
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Sends all and waits for all answers; an error answer of Redis is a value.
    pub(super) async fn send(&self, pipeline: &Pipeline, limit: Limit) -> Result<Vec<Value>, BusError> {
        let server = || self.place.to_string();
        let held = match self.live() {
            Some(held) => held,
            // boxed, because connecting takes much room and is rare
            None => match timeout_at(limit.connected_by, Box::pin(self.connected())).await {
                Ok(held) => held,
                Err(_) => {
                    let source = lock(&self.last_error).clone();
                    return Err(BusError::Unreachable { server: server(), after: limit.given, source });
                }
            },
        };
        let answers_before = held.answers.load(Ordering::Relaxed);
        let mut connection = held.connection.clone();
        let answers = connection.send_packed_commands(pipeline, 0, pipeline.len());
        match timeout_at(limit.answered_by, answers).await {
            Ok(Ok(values)) => {
                held.answers.fetch_add(1, Ordering::Relaxed);
                Ok(values)
            }
            Ok(Err(source)) => {
                held.live.store(false, Ordering::Release);
                Err(BusError::Lost { server: server(), source })
            }
            Err(_) => {
                // slow is not dead: others' answers on this connection count for it
                if held.answers.load(Ordering::Relaxed) == answers_before {
                    held.live.store(false, Ordering::Release);
                }
                Err(BusError::Timeout { server: server(), after: limit.given })
            }
        }
    }

    /// The next call connects anew (and asks the Sentinels again).
    pub(super) fn disconnect(&self) {
        *lock(&self.held) = None;
    }

    async fn connected(&self) -> Arc<Held> {
        let mut backoff = self.connecting.lock().await;
        loop {
            if let Some(held) = self.live() {
                return held;
            }
            sleep(backoff.delay()).await;
            match self.connect().await {
                Ok(held) => {
                    backoff.reset();
                    *lock(&self.held) = Some(held);
                }
                Err(error) => {
                    tracing::debug!(server = %self.place, %error, "no connection to Redis");
                    *lock(&self.last_error) = Some(error);
                    backoff.failed();
                }
            }
        }
    }

    fn live(&self) -> Option<Arc<Held>> {
        lock(&self.held).as_ref().filter(|held| held.live.load(Ordering::Acquire)).cloned()
    }

    async fn connect(&self) -> RedisResult<Arc<Held>> {
        let live = Arc::new(AtomicBool::new(true));
        let on_push = {
            let live = live.clone();
            move |push: PushInfo| {
                if push.kind == PushKind::Disconnection {
                    live.store(false, Ordering::Release);
                }
            }
        };
        let mut connection = self.place.connect(on_push).await?;
        // also tells a Redis that is still loading its data, which refuses it, from one that is ready
        within(CONNECT_TIMEOUT, Scripts::load().exec_async(&mut connection)).await?;
        Ok(Arc::new(Held { connection, live, answers: AtomicU64::new(0) }))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
