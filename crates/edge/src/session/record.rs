//! What of a session survives its connection, as it stands on Redis. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use herald_wire::{Cursor, Position, Target};
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
    /// Which connection the session was on last.
    #[serde(default)]
    holder: String,
}

/// Where a resumed session stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resumed {
    pub(crate) session: Session,
    /// Of each membership, in order: from where on it is to be replayed.
    pub(crate) after: Vec<Position>,
}

impl Record {
    pub(crate) fn of(session: &Session, acked: Option<Cursor>, holder: &str) -> Self {
        let floors = session.memberships().iter().map(|m| (m.target.to_string(), m.floor.0)).collect();
        let acked =
            session.explicit_acks.then(|| acked.map_or_else(String::new, |cursor| cursor.to_string()));
        Self { floors, acked, holder: holder.to_owned() }
    }

    pub(crate) fn to_bytes(&self) -> Bytes {
        // maps of strings to numbers: it cannot fail
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// `None` for what is no record: such a session cannot be resumed.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Whether the session was last on this connection.
    pub(crate) fn is_held_by(&self, holder: &str) -> bool {
        self.holder == holder
    }

    /// The same session, on this connection from now on.
    pub(crate) fn held_by(&self, holder: &str) -> Self {
        Self { holder: holder.to_owned(), ..self.clone() }
    }

    /// Up to where the client has everything: what it hands back, or what it acked if it acks.
    pub(crate) fn cursor(&self, handed_back: Option<Cursor>) -> Option<Cursor> {
        if self.acked.is_some() { self.acked() } else { handed_back }
    }

    /// Up to where the client acked, for a session that acks.
    pub(crate) fn acked(&self) -> Option<Cursor> {
        self.acked.as_deref().and_then(|text| Cursor::parse(text).ok())
    }

    /// The session, each channel to be replayed from the later of where it joined and where its cursor stands.
    pub(crate) fn resume(&self, cursor: Option<Cursor>, slot_of: impl Fn(&Target) -> u16) -> Resumed {
        let mut resumed = Resumed::default();
        resumed.session.explicit_acks = self.acked.is_some();
        for (text, floor) in &self.floors {
            let (Some(target), floor) = (Target::from_text(text), Position(*floor)) else { continue };
            let stands = cursor.map_or(Position::ZERO, |cursor| cursor.stands(&target, slot_of(&target)));
            resumed.after.push(stands.max(floor));
            resumed.session.memberships.push(Membership { target, floor });
        }
        resumed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Change, Registration, SessionLimits};

    const EPOCH: herald_wire::Epoch = herald_wire::Epoch(7);

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
        let resumed = record.resume(record.cursor(cursor), |_| Cursor::ONE_REDIS);
        let after = resumed.session.memberships().iter().zip(&resumed.after);
        after.map(|(membership, after)| (membership.target.to_string(), after.0)).collect()
    }

    fn pairs(all: [(&str, u64); 3]) -> Vec<(String, u64)> {
        all.map(|(target, floor)| (target.to_owned(), floor)).to_vec()
    }

    #[test]
    fn replay_starts_at_the_later_of_join_and_cursor() {
        let record = Record::read(&Record::of(&session(false), None, "").to_bytes()).unwrap();
        assert_eq!(floors(&record, None), pairs([("*", 10), ("g:g", 50), ("s:a", 10)]));
        assert_eq!(floors(&record, Some(cursor(30))), pairs([("*", 30), ("g:g", 50), ("s:a", 30)]));
        assert_eq!(floors(&record, Some(cursor(60))), pairs([("*", 60), ("g:g", 60), ("s:a", 60)]));
        let behind = Cursor { mailbox: Some(Position(20)), ..cursor(60) };
        assert_eq!(floors(&record, Some(behind)), pairs([("*", 60), ("g:g", 60), ("s:a", 20)]));
    }

    #[test]
    fn a_session_that_acks_stands_where_it_acked() {
        let acked = Record::of(&session(true), Some(cursor(55)), "");
        assert_eq!(floors(&acked, Some(cursor(90))), pairs([("*", 55), ("g:g", 55), ("s:a", 55)]));
        let never = Record::of(&session(true), None, "");
        assert_eq!(floors(&never, Some(cursor(90))), pairs([("*", 10), ("g:g", 50), ("s:a", 10)]));
        assert!(never.resume(None, |_| 0).session.explicit_acks);
    }

    #[test]
    fn resuming_moves_the_session_to_another_connection_and_nothing_else() {
        let first = Record::of(&session(false), None, "one");
        let second = Record::read(&first.held_by("two").to_bytes()).unwrap();
        assert!(first.is_held_by("one") && second.is_held_by("two") && !second.is_held_by("one"));
        assert_eq!(floors(&second, None), floors(&first, None));
        let resumed = second.resume(Some(cursor(90)), |_| Cursor::ONE_REDIS).session;
        assert_eq!(Record::of(&resumed, None, "two"), second, "where it joined stays on record");
    }

    #[test]
    fn other_nodes_of_a_cluster_are_replayed_from_a_margin() {
        let record = Record { floors: [("g:g".to_owned(), 0)].into(), ..Record::default() };
        let at = Position(60_000_000);
        let resumed = record.resume(Some(Cursor { slot: 5, ..cursor(at.0) }), |_| 6);
        assert_eq!(resumed.after, [at.earlier_by(Cursor::CLUSTER_MARGIN_US)]);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bytes in [&b""[..], b"{}x", b"[]", b"{\"floors\":{\"g:a\":-1}}"] {
            assert_eq!(Record::read(bytes), None);
        }
        let odd = Record::read(br#"{"floors":{"nonsense":1}}"#).unwrap();
        assert!(odd.resume(None, |_| 0).session.memberships().is_empty());
    }
}
