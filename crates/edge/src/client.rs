//! What a client may do, whatever protocol it speaks: open, resume, register, leave, ack, close. It turns a planned
//! change of the session into subscriptions, memberships in the hub, claims and a record on Redis, in the order that
//! keeps the promise: a client that was told «registered» misses nothing published from then on.

mod closing;
mod resume;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryFutureExt as _;
use herald_bus::{Bus, BusError};
use herald_wire::{Cursor, CursorError, Position, Target, TargetKind};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio::try_join;

use crate::delivery::Encoding;
use crate::feed::Positions;
use crate::hub::{CloseReason, Command, Connection, Hub, HubEnded, Join, Signal};
use crate::interest::{Interest, NotSubscribed};
use crate::keeper::{Keeper, LastMarks};
use crate::metrics::ClientMetrics;
use crate::origin::Origins;
use crate::presence::Presence;
use crate::session::{Change, Record, Registration, Session, SessionError, SessionLimits};

/// A registration that Redis has not confirmed by then is refused.
const PATIENCE: Duration = Duration::from_secs(10);

/// What clients are served with.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) hub: Hub,
    pub(crate) bus: Bus,
    pub(crate) interest: Interest,
    pub(crate) positions: Positions,
    pub(crate) presence: Presence,
    pub(crate) origins: Origins,
    pub(crate) keeper: Keeper,
    pub(crate) last_marks: LastMarks,
    pub(crate) limits: SessionLimits,
    /// How long a session and a mailbox's mark outlive their connection.
    pub(crate) retention: Duration,
    pub(crate) metrics: ClientMetrics,
}

/// Why a client did not get what it asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("the cursor cannot be used: {0}")]
    Cursor(#[from] CursorError),
    #[error("this session cannot be resumed: it is unknown, or was away for longer than it is kept")]
    UnknownSession,
    #[error("Redis does not answer: try again later ({0})")]
    Bus(#[from] BusError),
    #[error("{0}: try again later")]
    NotSubscribed(#[from] NotSubscribed),
    #[error("Redis did not answer in time: try again later")]
    Late(#[from] tokio::time::error::Elapsed),
    #[error(transparent)]
    HubEnded(#[from] HubEnded),
}

impl ClientError {
    /// What a program can tell them apart by.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Session(e) => e.code(),
            Self::Cursor(_) => "bad_cursor",
            Self::UnknownSession => "unknown_session",
            Self::Bus(_) | Self::NotSubscribed(_) | Self::Late(_) | Self::HubEnded(_) => "unavailable",
        }
    }

    /// Whether it is this edge that failed, not the client.
    pub(crate) fn is_ours(&self) -> bool {
        self.code() == "unavailable"
    }
}

/// Who claims a socketId that a connection held.
enum Winner {
    OtherSession,
    /// A connection on which the same session goes on.
    LaterConnection,
    /// A connection that the same session has left, and whose edge did not know.
    EarlierConnection,
}

pub(crate) struct Client {
    services: Arc<Services>,
    pub(crate) connection: Arc<Connection>,
    session: Session,
    pid: String,
    /// Names this connection in the session's record.
    holder: String,
    acked: Option<Cursor>,
}

impl Client {
    /// A new session on a connection.
    pub(crate) fn new(services: Arc<Services>, connection: Arc<Connection>, pid: String) -> Self {
        services.keeper.open(&pid, &connection);
        let holder = pid.clone();
        Self { services, connection, session: Session::default(), pid, holder, acked: None }
    }

    /// The session's private id.
    pub(crate) fn pid(&self) -> &str {
        &self.pid
    }

    pub(crate) fn socket_id(&self) -> Option<&str> {
        self.session.socket_id()
    }

    pub(crate) fn groups(&self) -> Vec<&str> {
        self.session.groups().collect()
    }

    /// Sends bytes that are encoded for the connection already.
    pub(crate) async fn send(&self, bytes: Bytes) -> Result<(), HubEnded> {
        self.services.hub.send(self.connection.id, Command::Send { id: self.connection.id, bytes }).await
    }

    /// Adds to what the session is.
    pub(crate) async fn register(&mut self, asked: Registration) -> Result<(), ClientError> {
        self.register_from(asked, None).await
    }

    /// The same; what it joins counts from this cursor on, not from now on: for clients that have no session to resume
    /// and say again who they are.
    pub(crate) async fn register_from(
        &mut self,
        asked: Registration,
        from: Option<(&str, Encoding)>,
    ) -> Result<(), ClientError> {
        let registered = self.try_register(&asked, from).await;
        match &registered {
            Ok(()) => self.services.metrics.registrations.increment(1),
            Err(_) => self.services.metrics.registrations_refused.increment(1),
        }
        registered
    }

    /// Takes from what the session is.
    pub(crate) async fn leave(&mut self, groups: &[String]) -> Result<(), ClientError> {
        let change = self.session.plan_leave(groups, self.services.limits)?;
        if change.is_empty() {
            return Ok(());
        }
        let mut session = self.session.clone();
        session.take_over(&change, |_| Position::ZERO);
        self.save(&session).await?;
        self.session = session;
        self.part(change.leaves).await?;
        Ok(())
    }

    /// Becomes the session `pid` again, from `cursor` on (from where it joined each channel, without one): what it
    /// missed is on its way when this returns. `first` is sent before any of it.
    pub(crate) async fn resume(
        &mut self,
        pid: &str,
        cursor: Option<&str>,
        (encoding, first): (Encoding, impl FnOnce() -> Bytes),
    ) -> Result<(), ClientError> {
        let resumed = self.try_resume(pid, cursor, (encoding, first)).await;
        match &resumed {
            Ok(()) => self.services.metrics.resumed.increment(1),
            Err(_) => self.services.metrics.resume_refused.increment(1),
        }
        resumed
    }

    /// The client has everything up to `cursor`; only counts when it asked for explicit acks.
    pub(crate) async fn ack(&mut self, cursor: &str) -> Result<(), ClientError> {
        let cursor = Cursor::parse(cursor)?;
        if !self.session.explicit_acks || self.acked.is_some_and(|acked| acked.position > cursor.position) {
            return Ok(());
        }
        self.acked = Some(cursor);
        self.save(&self.session).await?;
        if let Some(target) = self.session.socket_target() {
            let mark = (target.clone(), cursor.mailbox.unwrap_or(cursor.position));
            self.services.bus.save_sent(&[mark], self.services.retention).await?;
        }
        Ok(())
    }

    /// Another connection claims the socketId. True when this session has lost it: the groups stay, and the client is to
    /// be told.
    pub(crate) async fn superseded(&mut self, target: &Target) -> bool {
        let TargetKind::Socket(socket_id) = target.kind() else { return false };
        if self.session.socket_target() != Some(target) {
            return true;
        }
        match self.winner(target).await {
            // this session goes on elsewhere, and has its socketId there: this connection is one that nobody uses
            Ok(Winner::LaterConnection) => self.connection.signal(Signal::Close(CloseReason::Resumed)),
            // what an older connection of this session was said to hold arrived late
            Ok(Winner::EarlierConnection) => self.services.presence.claim(socket_id, &self.connection),
            Ok(Winner::OtherSession) => {
                if let Err(e) = self.lose(target).await {
                    tracing::debug!("superseded, but the record stays: {e}");
                }
                return true;
            }
            Err(e) => {
                tracing::debug!("superseded, and it cannot be told by whom: {e}");
                self.connection.signal(Signal::Close(CloseReason::Unavailable));
            }
        }
        false
    }

    async fn lose(&mut self, target: &Target) -> Result<(), ClientError> {
        self.services.metrics.superseded.increment(1);
        self.session.lose(target);
        self.services.hub.send(self.connection.id, self.command_leave(vec![target.clone()])).await?;
        self.services.interest.release(vec![target.clone()]).await;
        self.save(&self.session).await
    }

    /// To whom this connection lost its socketId, by what is on record.
    async fn winner(&self, target: &Target) -> Result<Winner, ClientError> {
        let bus = &self.services.bus;
        let record = bus.load_session(&self.pid).await?.and_then(|bytes| Record::read(&bytes));
        if record.is_some_and(|record| !record.is_held_by(&self.holder)) {
            return Ok(Winner::LaterConnection);
        }
        let is_ours = bus.load_holder(target).await?.as_deref() == Some(&self.pid);
        Ok(if is_ours { Winner::EarlierConnection } else { Winner::OtherSession })
    }

    /// The session's record is gone from Redis: it is put there again.
    pub(crate) async fn record_again(&self) {
        if !self.session.memberships().is_empty()
            && let Err(e) = self.save(&self.session).await
        {
            tracing::debug!("cannot save a session's record again: {e}");
        }
    }

    async fn try_register(
        &mut self,
        asked: &Registration,
        from: Option<(&str, Encoding)>,
    ) -> Result<(), ClientError> {
        let from = match from {
            Some((cursor, encoding)) => Some((Cursor::parse(cursor)?, encoding)),
            None => None,
        };
        let change = self.session.plan_register(asked, self.services.limits)?;
        let explicit_acks = self.session.explicit_acks || asked.explicit_acks;
        if change.is_empty() && explicit_acks == self.session.explicit_acks {
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        self.services.interest.acquire(change.joins.clone(), deadline).await?;
        // boxed: a future that is handed on is held twice
        let joined = timeout_at(deadline, Box::pin(self.join(&change, explicit_acks, from))).await;
        match joined.unwrap_or_else(|late| Err(late.into())) {
            Ok(()) => self.part(change.leaves).await,
            Err(e) => {
                self.services.interest.release(change.joins).await;
                Err(e)
            }
        }
    }

    /// Everything to be joined is subscribed to: from where on does it count, and on record, and into the hub.
    async fn join(
        &mut self,
        change: &Change,
        explicit_acks: bool,
        from: Option<(Cursor, Encoding)>,
    ) -> Result<(), ClientError> {
        let Services { bus, positions, origins, hub, .. } = &*self.services;
        origins.known().await;
        let sent_before = async {
            match mailbox(&change.joins) {
                Some((target, socket_id)) if from.is_none() => self.sent_before(target, socket_id).await,
                _ => Ok(Position::ZERO),
            }
        };
        let (tails, sent_before) =
            try_join!(bus.tails(&change.joins).map_err(ClientError::from), sent_before)?;
        let lost = match from {
            Some((cursor, _)) => self.is_lost(cursor, &tails).await?,
            None => false,
        };
        let tails: Vec<(Target, Position)> = change.joins.iter().cloned().zip(tails).collect();
        let mut joins = Vec::with_capacity(tails.len());
        for (target, tail) in &tails {
            let (floor, joined) = match (from, target.kind()) {
                (Some(_), _) if lost => (Position::ZERO, Position::ZERO),
                (Some((cursor, _)), _) => (cursor.stands(target, bus.slot_of(target)), Position::ZERO),
                (None, TargetKind::Socket(_)) => (sent_before, sent_before),
                (None, _) => (*tail, *tail),
            };
            joins.push(Join { target: target.clone(), floor, replay: *tail > floor, joined });
        }
        positions.begin(tails);
        let mut session = self.session.clone();
        let floor_of =
            |target: &Target| joins.iter().find(|j| j.target == *target).map_or(Position::ZERO, |j| j.floor);
        session.take_over(change, floor_of);
        session.explicit_acks = explicit_acks;
        try_join!(self.save(&session), self.note_holder(&self.pid, &change.joins))?;
        self.session = session;
        if let (Some((cursor, encoding)), true) = (from, lost) {
            self.tell_lost(encoding, |target| cursor.stands(target, bus.slot_of(target))).await?;
        }
        let id = self.connection.id;
        hub.send(id, Command::Join { id, joins, explicit_acks }).await?;
        self.claim(&change.joins);
        Ok(())
    }

    /// Notes whose the socketId among these is, before it is claimed.
    async fn note_holder(&self, pid: &str, joins: &[Target]) -> Result<(), ClientError> {
        let Services { bus, retention, .. } = &*self.services;
        if let Some((target, _)) = mailbox(joins) {
            bus.save_holder(target, pid, *retention).await?;
        }
        Ok(())
    }

    /// Up to where earlier sessions of a socketId were sent its mailbox. One that is still on this edge knows best.
    async fn sent_before(&self, target: &Target, socket_id: &str) -> Result<Position, ClientError> {
        let Services { bus, hub, presence, .. } = &*self.services;
        let mut written = None;
        if let Some(holder) = presence.holder(socket_id) {
            let (mark, marked) = oneshot::channel();
            hub.send(holder.id, Command::Mark { id: holder.id, mark }).await?;
            written = marked.await.ok().flatten();
        }
        Ok(bus.load_sent(target).await?.max(written.unwrap_or_default()))
    }

    /// Carries out what a change leaves.
    async fn part(&self, leaves: Vec<Target>) -> Result<(), ClientError> {
        if leaves.is_empty() {
            return Ok(());
        }
        if let Some((_, socket_id)) = mailbox(&leaves) {
            self.services.presence.release(socket_id, &self.connection);
        }
        self.services.hub.send(self.connection.id, self.command_leave(leaves.clone())).await?;
        self.services.interest.release(leaves).await;
        Ok(())
    }

    fn claim(&self, joins: &[Target]) {
        if let Some((_, socket_id)) = mailbox(joins) {
            self.services.presence.claim(socket_id, &self.connection);
        }
    }

    async fn save(&self, session: &Session) -> Result<(), ClientError> {
        let record = Record::of(session, self.acked, &self.holder).to_bytes();
        Ok(self.services.bus.save_session(&self.pid, record, self.services.retention).await?)
    }

    fn command_leave(&self, targets: Vec<Target>) -> Command {
        Command::Leave { id: self.connection.id, targets }
    }
}

/// The mailbox among targets, and its socketId: a session has one at most.
fn mailbox(targets: &[Target]) -> Option<(&Target, &str)> {
    targets.iter().find_map(|target| match target.kind() {
        TargetKind::Socket(socket_id) => Some((target, socket_id)),
        _ => None,
    })
}
