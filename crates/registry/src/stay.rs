//! One stay of an edge: the task that owns its stream. Reads what the edge says, tells the store, and tells the edge
//! what it lost.
//!
//! Nothing is acted on but through the store, so a stay that ends in whatever way loses nothing: the edge attaches
//! again, says again what it holds, and is told again what it lost.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use herald_chassis::Backoff;
use herald_wire::registry::edge_message::Kind as Up;
use herald_wire::registry::registry_message::Kind;
use herald_wire::registry::{Claims, EdgeMessage, Hello, RegistryMessage, Releases, Welcome};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tonic::{Status, Streaming};

use crate::directory::{Attachment, Eviction, Hold};
use crate::down::{Down, DownError};
use crate::event::{Event, message};
use crate::seats::Seat;
use crate::store::StoreError;
use crate::{Replica, check};

/// How long an edge may take to say hello.
pub(crate) const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Leases between two audits of an edge's claims.
pub(crate) const AUDIT_EVERY_LEASES: u32 = 3;
/// Messages taken from the inbox at once.
const INBOX_BATCH: usize = 256;

/// Why a stay ended.
enum End {
    /// The edge closed its side, or is gone.
    Left,
    /// It is told so.
    Told(Box<Status>),
}

impl From<Box<Status>> for End {
    fn from(status: Box<Status>) -> Self {
        Self::Told(status)
    }
}

/// Serves one stream from its first message to its end.
pub(crate) async fn serve(replica: Arc<Replica>, mut up: Streaming<EdgeMessage>, down: Down) {
    let end = match arrive(&replica, &mut up).await {
        Ok((by, seat)) => Stay { replica, by, down: &down }.run(up, seat).await,
        Err(end) => end,
    };
    let status = match end {
        End::Left => Status::ok(""),
        End::Told(status) => *status,
    };
    crate::metrics::stream_closed(status.code());
    down.end(status);
}

async fn arrive(replica: &Replica, up: &mut Streaming<EdgeMessage>) -> Result<(Attachment, Seat), End> {
    let first = timeout(HELLO_WITHIN, up.message())
        .await
        .map_err(|_| Box::new(Status::deadline_exceeded(format!("no Hello within {HELLO_WITHIN:?}"))))?;
    let Some(first) = first.map_err(Box::new)? else { return Err(End::Left) };
    let Some(Up::Hello(hello)) = first.kind else {
        return Err(check::invalid("kind", "the first message must be Hello").into());
    };
    check::hello(&hello)?;
    let Hello { edge_id, address } = hello;
    let by = replica.store.attach(&edge_id, &address).await.map_err(|error| unavailable(&error))?;
    tracing::info!(edge_id, address, number = by.number, "edge attached");
    Ok((by.clone(), replica.seats.take(by)))
}

struct Stay<'d> {
    replica: Arc<Replica>,
    by: Attachment,
    down: &'d Down,
}

impl Stay<'_> {
    async fn run(&self, up: Streaming<EdgeMessage>, seat: Seat) -> End {
        let end = match self.attend(up, seat).await {
            Ok(()) => End::Left,
            Err(end) => end,
        };
        let reason = match &end {
            End::Left => "it left",
            End::Told(status) => status.message(),
        };
        tracing::info!(
            edge_id = self.by.edge_id,
            number = self.by.number,
            reason,
            "edge detached; its lease runs"
        );
        end
    }

    /// The order of the arms: the end first, then what others have for the edge, then what it says; the repairs come
    /// last, and come round because they are rare.
    async fn attend(&self, mut up: Streaming<EdgeMessage>, mut seat: Seat) -> Result<(), End> {
        let lease = self.replica.options.lease;
        let welcome = Welcome { lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX) };
        self.send(RegistryMessage { kind: Some(Kind::Welcome(welcome)) }).await?;
        let forget = sleep_until(Instant::now() + lease);
        tokio::pin!(forget);
        let mut forgotten = false;
        let every = lease * AUDIT_EVERY_LEASES;
        let mut audits = interval_at(Instant::now() + every, every);
        audits.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut letters = Vec::with_capacity(INBOX_BATCH);
        loop {
            tokio::select! {
                biased;
                () = self.replica.shutdown.soft() => {
                    return Err(told(Status::unavailable("this registry is draining: attach to another")));
                }
                () = self.down.gone() => return Ok(()),
                count = seat.inbox.recv_many(&mut letters, INBOX_BATCH) => {
                    if count == 0 {
                        return Err(told(Status::aborted("this edge attached anew")));
                    }
                    self.pass_on(letters.drain(..)).await?;
                }
                said = up.message() => match said.map_err(Box::new)? {
                    Some(said) => self.hear(said).await?,
                    None => return Ok(()),
                },
                () = &mut forget, if !forgotten => {
                    forgotten = true;
                    let dropped = self.persist(async || self.replica.store.forget(&self.by).await).await?;
                    self.replica.metrics.forgotten.increment(dropped as u64);
                }
                () = seat.audit.notified() => self.audit().await?,
                _ = audits.tick() => self.audit().await?,
            }
        }
    }

    async fn hear(&self, said: EdgeMessage) -> Result<(), End> {
        match said.kind {
            Some(Up::Heartbeat(beat)) => {
                check::heartbeat(&beat)?;
                self.persist(async || self.replica.store.heartbeat(&self.by, &beat).await).await?;
                self.replica.poke.notify_one();
                Ok(())
            }
            Some(Up::Claims(claims)) => self.claim(claims).await,
            Some(Up::Releases(releases)) => self.release(releases).await,
            Some(Up::Hello(_)) => Err(check::invalid("hello", "was said already").into()),
            None => Err(check::invalid("kind", "is not set").into()),
        }
    }

    async fn claim(&self, claims: Claims) -> Result<(), End> {
        check::claims(&claims, &self.replica.options.limits)?;
        self.replica.metrics.claims.increment(claims.claims.len() as u64);
        let evictions =
            self.persist(async || self.replica.store.claim(&self.by, &claims.claims).await).await?;
        self.tell(evictions).await
    }

    async fn release(&self, releases: Releases) -> Result<(), End> {
        check::releases(&releases, &self.replica.options.limits)?;
        let dropped =
            self.persist(async || self.replica.store.release(&self.by, &releases.releases).await).await?;
        self.replica.metrics.releases.increment(dropped as u64);
        Ok(())
    }

    async fn audit(&self) -> Result<(), End> {
        let evictions = self.persist(async || self.replica.store.audit(&self.by).await).await?;
        if !evictions.is_empty() {
            tracing::warn!(
                edge_id = self.by.edge_id,
                count = evictions.len(),
                "evictions had been lost on the way"
            );
            self.replica.metrics.evictions_untold.increment(evictions.len() as u64);
        }
        self.tell(evictions).await
    }

    /// Tells everybody what they lost: this edge by its stream, others by their seats or the other replicas.
    async fn tell(&self, evictions: Vec<Eviction>) -> Result<(), End> {
        let (own, others): (Vec<_>, Vec<_>) =
            evictions.into_iter().partition(|e| e.edge_id == self.by.edge_id);
        self.replica.spread(others.into_iter().map(Event::from)).await;
        self.pass_on(own.into_iter().map(|eviction| message(eviction.evict))).await
    }

    /// Sends messages down. Evictions are struck from what the edge claims once they are on their way: should the
    /// stream break, the edge says again what it holds, and is told again.
    async fn pass_on(&self, messages: impl Iterator<Item = RegistryMessage>) -> Result<(), End> {
        let mut told = Vec::new();
        for message in messages {
            if let Some(Kind::Evict(evict)) = &message.kind {
                told.push(Hold { socket_id: evict.socket_id.clone(), connection: evict.connection });
            }
            self.send(message).await?;
        }
        if told.is_empty() {
            return Ok(());
        }
        self.replica.metrics.evictions.increment(told.len() as u64);
        self.persist(async || self.replica.store.told(&self.by, &told).await).await
    }

    async fn send(&self, message: RegistryMessage) -> Result<(), End> {
        self.down.send(message).await.map_err(|error| match error {
            DownError::Gone => End::Left,
            DownError::Slow => {
                self.replica.metrics.slow_edges.increment(1);
                told(Status::resource_exhausted("this edge does not read its stream: attach again"))
            }
        })
    }

    /// Repeats what the store could not do, for one lease: after that it would not matter any more.
    async fn persist<T, F>(&self, ask: impl Fn() -> F) -> Result<T, End>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let deadline = Instant::now() + self.replica.options.lease;
        let mut backoff = Backoff::EAGER;
        loop {
            match ask().await {
                Ok(done) => return Ok(done),
                Err(StoreError::Fenced) => {
                    let why = "the lease ended, or this edge attached anew: attach again and claim again";
                    return Err(told(Status::aborted(why)));
                }
                Err(error) if Instant::now() >= deadline => return Err(unavailable(&error).into()),
                Err(error) => {
                    tracing::debug!(edge_id = self.by.edge_id, %error, "trying again");
                    if !backoff.wait(&self.replica.shutdown).await {
                        return Err(unavailable(&error).into());
                    }
                }
            }
        }
    }
}

fn told(status: Status) -> End {
    End::Told(Box::new(status))
}

pub(crate) fn unavailable(error: &StoreError) -> Box<Status> {
    Box::new(Status::unavailable(format!("the registry's store does not answer: {error}")))
}
