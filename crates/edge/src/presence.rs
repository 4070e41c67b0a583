//! Which socketIds are held here, told to the registry; and what the registry says back. While it is down nothing waits
//! for it: claims are kept here, conflicts on this edge are settled here, and everything is told when it is back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use herald_chassis::{Backoff, Shutdown};
use herald_wire::Target;
use herald_wire::registry::registry_client::RegistryClient;
use herald_wire::registry::{
    Claim, Claims, EdgeMessage, Heartbeat, Hello, Pressure, RegistryMessage, Release, Releases, edge_message,
    registry_message,
};
use metrics::Gauge;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use crate::hub::{CloseReason, Connection, Hub, Signal};
use crate::pressure;

/// Claims or releases in one message to the registry; it takes up to 1,000. Each message renews the lease, and what
/// is in one must not take long where all edges come at once.
const AT_ONCE: usize = 250;
/// Changes not told yet; beyond it the stream is begun anew, with all that is held.
const UNTOLD_MAX: usize = 100_000;
/// How often changes are told while they come one after another: a message costs the registry two round trips to Redis,
/// however many claims are in it. No client waits for it; only who loses a socketId to another edge learns it so much
/// later.
const TELL_EVERY: Duration = Duration::from_millis(20);
/// Messages on their way to the registry.
const MESSAGES_MAX: usize = 64;
/// Heartbeats within one lease; further ones tell of pressure.
const BEATS_PER_LEASE: u32 = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Without a lease from the registry yet.
const LEASE_DEFAULT: Duration = Duration::from_secs(10);

struct Held {
    connection: Arc<Connection>,
    since: Instant,
}

enum Change {
    Claimed(String),
    Released { socket_id: String, connection: u64 },
}

#[derive(Default)]
struct State {
    held: HashMap<String, Held, RandomState>,
    /// Not told yet, while attached.
    untold: Option<Vec<Change>>,
}

/// Cloning is a reference count.
#[derive(Clone)]
pub(crate) struct Presence {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    claims: Gauge,
    pressure: watch::Receiver<pressure::Pressure>,
}

/// Why the stream to the registry ended.
#[derive(Debug, thiserror::Error)]
enum Detached {
    #[error("cannot reach the registry: {0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("the registry ended the stream: {0}")]
    Status(#[from] tonic::Status),
    #[error("the registry ended the stream")]
    Ended,
    #[error("more changes than can wait: telling all anew")]
    Overflow,
}

/// Who this edge is to the registry.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) edge_id: String,
    pub(crate) address: String,
}

impl Presence {
    pub(crate) fn new(claims: Gauge, pressure: watch::Receiver<pressure::Pressure>) -> Self {
        Self { state: Arc::default(), changed: Arc::default(), claims, pressure }
    }

    /// The connection holds the socketId now; one here that held it before is superseded.
    pub(crate) fn claim(&self, socket_id: &str, connection: &Arc<Connection>) {
        let mut state = self.lock();
        let held = Held { connection: connection.clone(), since: Instant::now() };
        let older = state.held.insert(socket_id.to_owned(), held);
        if let Some(older) = older.filter(|older| older.connection.id != connection.id) {
            supersede(&older.connection, socket_id);
        }
        self.note(state, Change::Claimed(socket_id.to_owned()));
    }

    /// Which connection here holds the socketId.
    pub(crate) fn holder(&self, socket_id: &str) -> Option<Arc<Connection>> {
        self.lock().held.get(socket_id).map(|held| held.connection.clone())
    }

    /// The connection holds it no longer; a newer holder keeps it.
    pub(crate) fn release(&self, socket_id: &str, connection: &Arc<Connection>) {
        let mut state = self.lock();
        if state.held.get(socket_id).is_some_and(|held| held.connection.id == connection.id) {
            state.held.remove(socket_id);
            self.note(state, Change::Released { socket_id: socket_id.to_owned(), connection: connection.id });
        }
    }

    /// Stays attached to the registry until the edge stops.
    pub(crate) async fn run(self, endpoint: Endpoint, (identity, hub): (Identity, Hub), shutdown: Shutdown) {
        let mut backoff = Backoff::EAGER;
        loop {
            let attached = self.attached(&endpoint, &identity, &hub, &mut backoff);
            let detached = tokio::select! {
                () = shutdown.hard() => return,
                Err(detached) = attached => detached,
            };
            self.lock().untold = None;
            tracing::warn!("not attached to the registry, will try again; delivery goes on: {detached}");
            if !backoff.wait(&shutdown).await {
                return;
            }
        }
    }

    async fn attached(
        &self,
        endpoint: &Endpoint,
        identity: &Identity,
        hub: &Hub,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible, Detached> {
        let channel = endpoint.clone().connect_timeout(CONNECT_TIMEOUT).connect().await?;
        let (up, messages) = mpsc::channel(MESSAGES_MAX);
        let Identity { edge_id, address } = identity.clone();
        send(&up, edge_message::Kind::Hello(Hello { edge_id, address })).await?;
        let mut down = RegistryClient::new(channel).attach(ReceiverStream::new(messages)).await?.into_inner();
        let lease = match down.message().await?.and_then(|message| message.kind) {
            Some(registry_message::Kind::Welcome(welcome)) => Duration::from_millis(welcome.lease_ms),
            _ => LEASE_DEFAULT,
        };
        backoff.reset();
        tracing::info!(edge_id = identity.edge_id, ?lease, "attached to the registry");
        self.tell_all(&up).await?;
        let mut beats = interval((lease / BEATS_PER_LEASE).max(Duration::from_millis(10)));
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pressure = self.pressure.clone();
        let mut tell_at = Instant::now();
        loop {
            tokio::select! {
                _ = beats.tick() => send(&up, self.heartbeat(identity, hub)).await?,
                Ok(()) = pressure.changed() => send(&up, self.heartbeat(identity, hub)).await?,
                () = self.changed_by(tell_at) => {
                    tell_at = Instant::now() + TELL_EVERY;
                    self.tell_changes(&up).await?;
                }
                message = down.message() => self.heed(message?.ok_or(Detached::Ended)?),
            }
        }
    }

    /// Waits for a change, and until then at least. Cancel safe: what is not told stays untold.
    async fn changed_by(&self, at: Instant) {
        sleep_until(at).await;
        self.changed.notified().await;
    }

    async fn tell_all(&self, up: &mpsc::Sender<EdgeMessage>) -> Result<(), Detached> {
        let all: Vec<Claim> = {
            let mut state = self.lock();
            state.untold = Some(Vec::new());
            state.held.iter().map(|(socket_id, held)| claim(socket_id, held)).collect()
        };
        for some in all.chunks(AT_ONCE) {
            send(up, edge_message::Kind::Claims(Claims { claims: some.to_vec() })).await?;
        }
        Ok(())
    }

    /// In the order in which they happened: runs of claims and of releases.
    async fn tell_changes(&self, up: &mpsc::Sender<EdgeMessage>) -> Result<(), Detached> {
        let messages = {
            let mut state = self.lock();
            let changes = state.untold.replace(Vec::new()).ok_or(Detached::Overflow)?;
            messages(changes, &state.held)
        };
        for message in messages {
            send(up, message).await?;
        }
        Ok(())
    }

    fn heartbeat(&self, identity: &Identity, hub: &Hub) -> edge_message::Kind {
        let sessions = self.lock().held.len() as u64;
        let pressure = *self.pressure.borrow();
        edge_message::Kind::Heartbeat(Heartbeat {
            connections: hub.connections(),
            sessions,
            pressure: Some(Pressure {
                edge_id: identity.edge_id.clone(),
                lateness_us: pressure.lateness().as_micros() as u64,
                feed_us: pressure.feed.as_micros() as u64,
                fullness_permille: pressure.fullness_permille,
                bottleneck: String::new(),
            }),
        })
    }

    fn heed(&self, message: RegistryMessage) {
        let holder = |socket_id: &str, connection: u64| {
            let state = self.lock();
            let held = state.held.get(socket_id).filter(|held| held.connection.id == connection);
            held.map(|held| held.connection.clone())
        };
        match message.kind {
            Some(registry_message::Kind::Evict(evict)) => {
                if let Some(connection) = holder(&evict.socket_id, evict.connection) {
                    self.lock().held.remove(&evict.socket_id);
                    supersede(&connection, &evict.socket_id);
                }
            }
            Some(registry_message::Kind::Close(close)) => {
                if let Some(connection) = holder(&close.socket_id, close.connection) {
                    connection.signal(Signal::Close(CloseReason::Disconnected(close.reason)));
                }
            }
            Some(registry_message::Kind::Welcome(_)) | None => {}
        }
    }

    fn note(&self, mut state: MutexGuard<'_, State>, change: Change) {
        self.claims.set(state.held.len() as f64);
        if let Some(untold) = &mut state.untold {
            if untold.len() < UNTOLD_MAX {
                untold.push(change);
            } else {
                state.untold = None;
            }
            drop(state);
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn supersede(connection: &Connection, socket_id: &str) {
    // whoever held it registered it within the limits, which are not known here
    if let Ok(target) = Target::socket(socket_id, socket_id.len()) {
        connection.signal(Signal::Superseded(target));
    }
}

fn claim(socket_id: &str, held: &Held) -> Claim {
    Claim {
        socket_id: socket_id.to_owned(),
        connection: held.connection.id,
        age_ms: held.since.elapsed().as_millis() as u64,
    }
}

fn messages(changes: Vec<Change>, held: &HashMap<String, Held, RandomState>) -> Vec<edge_message::Kind> {
    let mut messages: Vec<edge_message::Kind> = Vec::new();
    for change in changes {
        match (change, messages.last_mut()) {
            (Change::Claimed(socket_id), last) => {
                let Some(claim) = held.get(&socket_id).map(|held| claim(&socket_id, held)) else { continue };
                match last {
                    Some(edge_message::Kind::Claims(run)) if run.claims.len() < AT_ONCE => {
                        run.claims.push(claim);
                    }
                    _ => messages.push(edge_message::Kind::Claims(Claims { claims: vec![claim] })),
                }
            }
            (Change::Released { socket_id, connection }, last) => {
                let release = Release { socket_id, connection };
                match last {
                    Some(edge_message::Kind::Releases(run)) if run.releases.len() < AT_ONCE => {
                        run.releases.push(release);
                    }
                    _ => messages.push(edge_message::Kind::Releases(Releases { releases: vec![release] })),
                }
            }
        }
    }
    messages
}

async fn send(up: &mpsc::Sender<EdgeMessage>, kind: edge_message::Kind) -> Result<(), Detached> {
    up.send(EdgeMessage { kind: Some(kind) }).await.map_err(|_| Detached::Ended)
}
