//! What of a session survives its connection, as it stands on Redis. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use herald_wire::{Cursor, Epoch, Position, Target};
use serde::{Deserialize, Serialize};

use super::{Membership, Session};

/// JSON, so that an operator can read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// By target: the position at which the session joined.
    floors: BTreeMap<String, u64>,
    /// Positions move only by the client's acks: up to here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    acked: Option<String>,
}

/// Where a resumed session stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resumed {
    pub(crate) session: Session,
    /// The logs are not those the cursor belongs to: everything since may be missing.
    pub(crate) lost: bool,
}

impl Record {
    pub(crate) fn of(session: &Session, acked: Option<Cursor>) -> Self {
        let floors = session.memberships().iter().map(|m| (m.target.to_string(), m.floor.0)).collect();
        let acked =
            session.explicit_acks.then(|| acked.map_or_else(String::new, |cursor| cursor.to_string()));
        Self { floors, acked }
    }

    pub(crate) fn to_bytes(&self) -> Bytes {
        // maps of strings to numbers: it cannot fail
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// `None` for what is no record: such a session cannot be resumed.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Up to where the client acked, for a session that acks.
    pub(crate) fn acked(&self) -> Option<Cursor> {
        self.acked.as_deref().and_then(|text| Cursor::parse(text).ok())
    }

    /// The session, each channel to be replayed from the later of where it joined and where its cursor stands.
    pub(crate) fn resume(
        &self,
        cursor: Option<Cursor>,
        epoch: Epoch,
        slot_of: impl Fn(&Target) -> u16,
    ) -> Resumed {
        let explicit_acks = self.acked.is_some();
        let cursor = if explicit_acks { self.acked() } else { cursor };
        let memberships = self.floors.iter().filter_map(|(text, floor)| {
            let target = Target::from_text(text)?;
            let stands = cursor.map_or(Position::ZERO, |cursor| cursor.stands(&target, slot_of(&target)));
            Some(Membership { floor: stands.max(Position(*floor)), target })
        });
        Resumed {
            session: Session { memberships: memberships.collect(), explicit_acks },
            lost: cursor.is_some_and(|cursor| cursor.epoch != epoch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Change, Registration, SessionLimits};

    const EPOCH: Epoch = Epoch(7);

    fn session(explicit_acks: bool) -> Session {
        let asked = Registration { socket_id: Some("a".into()), groups: vec!["g".into()], explicit_acks };
        let mut session = Session { explicit_acks, ..Session::default() };
        let change: Change =
            session.plan_register(&asked, SessionLimits { groups_max: 9, id_bytes_max: 9 }).unwrap();
        session.take_over(&change, |target| Position(if target.as_str() == "g:g" { 50 } else { 10 }));
        session
    }

    fn cursor(position: u64) -> Cursor {
        Cursor { epoch: EPOCH, slot: Cursor::ONE_REDIS, position: Position(position), mailbox: None }
    }

    fn floors(record: &Record, cursor: Option<Cursor>) -> Vec<(String, u64)> {
        let resumed = record.resume(cursor, EPOCH, |_| Cursor::ONE_REDIS);
        assert!(!resumed.lost);
        resumed.session.memberships().iter().map(|m| (m.target.to_string(), m.floor.0)).collect()
    }

    fn pairs(all: [(&str, u64); 3]) -> Vec<(String, u64)> {
        all.map(|(target, floor)| (target.to_owned(), floor)).to_vec()
    }

    #[test]
    fn replay_starts_at_the_later_of_join_and_cursor() {
        let record = Record::read(&Record::of(&session(false), None).to_bytes()).unwrap();
        assert_eq!(floors(&record, None), pairs([("*", 10), ("g:g", 50), ("s:a", 10)]));
        assert_eq!(floors(&record, Some(cursor(30))), pairs([("*", 30), ("g:g", 50), ("s:a", 30)]));
        assert_eq!(floors(&record, Some(cursor(60))), pairs([("*", 60), ("g:g", 60), ("s:a", 60)]));
        let behind = Cursor { mailbox: Some(Position(20)), ..cursor(60) };
        assert_eq!(floors(&record, Some(behind)), pairs([("*", 60), ("g:g", 60), ("s:a", 20)]));
    }

    #[test]
    fn a_session_that_acks_stands_where_it_acked() {
        let acked = Record::of(&session(true), Some(cursor(55)));
        assert_eq!(floors(&acked, Some(cursor(90))), pairs([("*", 55), ("g:g", 55), ("s:a", 55)]));
        let never = Record::of(&session(true), None);
        assert_eq!(floors(&never, Some(cursor(90))), pairs([("*", 10), ("g:g", 50), ("s:a", 10)]));
        assert!(never.resume(None, EPOCH, |_| 0).session.explicit_acks);
    }

    #[test]
    fn another_life_of_the_data_is_told() {
        let record = Record::of(&session(false), None);
        assert!(record.resume(Some(cursor(60)), Epoch(8), |_| Cursor::ONE_REDIS).lost);
        assert!(!record.resume(None, Epoch(8), |_| Cursor::ONE_REDIS).lost);
    }

    #[test]
    fn other_nodes_of_a_cluster_are_replayed_from_a_margin() {
        let record = Record { floors: [("g:g".to_owned(), 0)].into(), acked: None };
        let at = Position(60_000_000);
        let resumed = record.resume(Some(Cursor { slot: 5, ..cursor(at.0) }), EPOCH, |_| 6);
        assert_eq!(resumed.session.memberships()[0].floor, at.earlier_by(Cursor::CLUSTER_MARGIN_US));
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bytes in [&b""[..], b"{}x", b"[]", b"{\"floors\":{\"g:a\":-1}}"] {
            assert_eq!(Record::read(bytes), None);
        }
        let odd = Record::read(br#"{"floors":{"nonsense":1}}"#).unwrap();
        assert!(odd.resume(None, EPOCH, |_| 0).session.memberships().is_empty());
    }
}
