//! A session goes on on a new connection: where it stands, what it missed, and whether Redis still has that.

use bytes::Bytes;
use futures_util::TryFutureExt as _;
use herald_wire::{Cursor, Position, Target};
use tokio::time::{Instant, timeout_at};
use tokio::try_join;

use super::{Client, ClientError, PATIENCE, Services};
use crate::delivery::{self, Delivery, Encoding};
use crate::hub::{Command, HubEnded, Join};
use crate::session::{Record, Resumed};

impl Client {
    pub(super) async fn try_resume(
        &mut self,
        pid: &str,
        cursor: Option<&str>,
        (encoding, first): (Encoding, impl FnOnce() -> Bytes),
    ) -> Result<(), ClientError> {
        let cursor = cursor.map(Cursor::parse).transpose()?;
        let Services { bus, interest, .. } = &*self.services;
        let deadline = Instant::now() + PATIENCE;
        let record = timeout_at(deadline, bus.load_session(pid)).await??;
        let record = record.and_then(|bytes| Record::read(&bytes)).ok_or(ClientError::UnknownSession)?;
        let cursor = record.cursor(cursor);
        let resumed = record.resume(cursor, |target| bus.slot_of(target));
        let targets = resumed.session.targets();
        interest.acquire(targets.clone(), deadline).await?;
        let lost = timeout_at(deadline, self.take_over(pid, &record, (&targets, cursor))).await;
        let lost = match lost.map_err(ClientError::from).flatten() {
            Ok(lost) => lost,
            Err(e) => {
                interest.release(targets).await;
                return Err(e);
            }
        };
        self.become_session(pid, resumed, (encoding, first()), (lost, record.acked())).await
    }

    /// Puts on record that the session is on this connection now; answers whether its cursor belongs to data that is
    /// no longer there.
    async fn take_over(
        &self,
        pid: &str,
        record: &Record,
        (targets, cursor): (&[Target], Option<Cursor>),
    ) -> Result<bool, ClientError> {
        let Services { bus, positions, origins, retention, .. } = &*self.services;
        origins.known().await;
        let tails = bus.tails(targets).await?;
        let lost = match cursor {
            Some(cursor) => self.is_lost(cursor, &tails).await?,
            None => false,
        };
        positions.begin(targets.iter().cloned().zip(tails));
        let record = record.held_by(&self.holder).to_bytes();
        let saved = bus.save_session(pid, record, *retention).map_err(ClientError::from);
        try_join!(saved, self.note_holder(pid, targets))?;
        Ok(lost)
    }

    /// Everything is subscribed to and on record: from here on only the edge's end is in the way.
    async fn become_session(
        &mut self,
        pid: &str,
        resumed: Resumed,
        (encoding, first): (Encoding, Bytes),
        (lost, acked): (bool, Option<Cursor>),
    ) -> Result<(), ClientError> {
        let Resumed { session, after } = resumed;
        // a connection that was something else before is that no longer
        self.part(self.session.targets()).await?;
        let Services { keeper, hub, .. } = &*self.services;
        keeper.close(&self.pid, &self.connection);
        keeper.open(pid, &self.connection);
        (self.session, self.pid, self.acked) = (session, pid.to_owned(), acked);
        self.send(first).await?;
        let memberships = self.session.memberships().iter().zip(after);
        if lost {
            let places: Vec<(Target, Position)> =
                memberships.clone().map(|(m, p)| (m.target.clone(), p)).collect();
            let stood = |target: &Target| {
                places.iter().find(|(t, _)| t == target).map_or(Position::ZERO, |(_, p)| *p)
            };
            self.tell_lost(encoding, stood).await?;
        }
        // of data that is new, everything is news
        let join = |(m, after): (&crate::session::Membership, Position)| Join {
            target: m.target.clone(),
            floor: if lost { Position::ZERO } else { after },
            replay: true,
            joined: if lost { Position::ZERO } else { m.floor },
        };
        let joins = memberships.map(join).collect();
        let (id, explicit_acks) = (self.connection.id, self.session.explicit_acks);
        hub.send(id, Command::Join { id, joins, explicit_acks }).await?;
        self.claim(&self.session.targets());
        Ok(())
    }

    /// Whether a cursor belongs to data that Redis has no longer: of another life, or beyond all that it remembers.
    pub(super) async fn is_lost(&self, cursor: Cursor, tails: &[Position]) -> Result<bool, ClientError> {
        let Services { bus, origins, .. } = &*self.services;
        // the feed may not have noticed yet that the data is new
        if cursor.epoch != origins.epoch() && cursor.epoch != bus.epoch().await? {
            return Ok(true);
        }
        if tails.iter().any(|tail| cursor.position <= *tail) {
            return Ok(false);
        }
        // in a cluster nobody can tell
        Ok(bus.clock().await?.is_some_and(|clock| cursor.position > clock))
    }

    /// Redis lost its data since: everything from where the session stood until now may be missing.
    pub(super) async fn tell_lost(
        &self,
        encoding: Encoding,
        stood: impl Fn(&Target) -> Position,
    ) -> Result<(), HubEnded> {
        let now = Position(delivery::now_us());
        for membership in self.session.memberships() {
            let from = stood(&membership.target);
            let gap = Delivery::gap(membership.target.clone(), from.min(now), now);
            self.send(gap.frame(encoding)).await?;
        }
        Ok(())
    }
}
