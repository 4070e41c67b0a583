//! Who a client says it is: a socketId, groups, and since when it has been in each. Pure.
//!
//! A change is planned, carried out by others (subscribe, join, claim), and only then taken over; a change that could
//! not be carried out leaves the session as it was.

mod record;

use herald_wire::{Position, Target, TargetError, TargetKind};

pub(crate) use self::record::{Record, Resumed};

/// How much a session may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionLimits {
    pub(crate) groups_max: usize,
    pub(crate) id_bytes_max: usize,
}

/// What a client asks for with `register`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registration {
    pub(crate) socket_id: Option<String>,
    pub(crate) groups: Vec<String>,
    /// Positions move only by the client's own acks.
    pub(crate) explicit_acks: bool,
}

/// Why a session cannot be what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("the group \"*\" is every registered client already: it cannot be registered for")]
    Everyone,
    #[error("{actual} groups would be too many: at most {max} are allowed")]
    TooManyGroups { actual: usize, max: usize },
}

impl SessionError {
    /// What a program can tell them apart by.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Target(TargetError::TooLong { .. }) => "id_too_long",
            Self::Target(_) | Self::Everyone => "invalid_id",
            Self::TooManyGroups { .. } => "too_many_groups",
        }
    }
}

/// A target that the session is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) target: Target,
    /// Nothing up to here is due to it.
    pub(crate) floor: Position,
}

/// What a registration or a leave changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) joins: Vec<Target>,
    pub(crate) leaves: Vec<Target>,
}

impl Change {
    pub(crate) fn is_empty(&self) -> bool {
        self.joins.is_empty() && self.leaves.is_empty()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    memberships: Vec<Membership>,
    pub(crate) explicit_acks: bool,
}

impl Session {
    /// Additive for groups; a new socketId takes the place of the old one; what is there already changes nothing.
    pub(crate) fn plan_register(
        &self,
        asked: &Registration,
        limits: SessionLimits,
    ) -> Result<Change, SessionError> {
        let mut change = Change::default();
        if let Some(socket_id) = &asked.socket_id {
            let target = Target::socket(socket_id, limits.id_bytes_max)?;
            if !self.is_in(&target) {
                change.leaves.extend(self.socket_target().cloned());
                change.joins.push(target);
            }
        }
        for group in &asked.groups {
            let target = group_target(group, limits)?;
            if !self.is_in(&target) && !change.joins.contains(&target) {
                change.joins.push(target);
            }
        }
        let is_group = |target: &&Target| matches!(target.kind(), TargetKind::Group(_));
        let actual = self.groups().count() + change.joins.iter().filter(is_group).count();
        if actual > limits.groups_max {
            return Err(SessionError::TooManyGroups { actual, max: limits.groups_max });
        }
        if !self.is_in(&Target::everyone()) {
            change.joins.push(Target::everyone());
        }
        Ok(change)
    }

    /// Leaving a group that it is not in changes nothing.
    pub(crate) fn plan_leave(
        &self,
        groups: &[String],
        limits: SessionLimits,
    ) -> Result<Change, SessionError> {
        let mut change = Change::default();
        for group in groups {
            let target = group_target(group, limits)?;
            if self.is_in(&target) && !change.leaves.contains(&target) {
                change.leaves.push(target);
            }
        }
        Ok(change)
    }

    /// The change was carried out: `floors` says from where each join counts.
    pub(crate) fn take_over(&mut self, change: &Change, floors: impl Fn(&Target) -> Position) {
        self.memberships.retain(|m| !change.leaves.contains(&m.target));
        for target in &change.joins {
            self.memberships.push(Membership { target: target.clone(), floor: floors(target) });
        }
    }

    /// Another connection holds the socketId now.
    pub(crate) fn lose(&mut self, target: &Target) {
        self.memberships.retain(|m| m.target != *target);
    }

    pub(crate) fn memberships(&self) -> &[Membership] {
        &self.memberships
    }

    pub(crate) fn targets(&self) -> Vec<Target> {
        self.memberships.iter().map(|m| m.target.clone()).collect()
    }

    pub(crate) fn socket_target(&self) -> Option<&Target> {
        self.memberships.iter().map(|m| &m.target).find(|t| matches!(t.kind(), TargetKind::Socket(_)))
    }

    pub(crate) fn socket_id(&self) -> Option<&str> {
        self.socket_target().and_then(|target| match target.kind() {
            TargetKind::Socket(id) => Some(id),
            _ => None,
        })
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = &str> {
        self.memberships.iter().filter_map(|m| match m.target.kind() {
            TargetKind::Group(group) => Some(group),
            _ => None,
        })
    }

    fn is_in(&self, target: &Target) -> bool {
        self.memberships.iter().any(|m| m.target == *target)
    }
}

fn group_target(group: &str, limits: SessionLimits) -> Result<Target, SessionError> {
    let target = Target::group(group, limits.id_bytes_max)?;
    if target.kind() == TargetKind::Everyone { Err(SessionError::Everyone) } else { Ok(target) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SessionLimits = SessionLimits { groups_max: 2, id_bytes_max: 8 };

    fn asked(socket_id: Option<&str>, groups: &[&str]) -> Registration {
        Registration {
            socket_id: socket_id.map(str::to_owned),
            groups: groups.iter().map(|&g| g.to_owned()).collect(),
            explicit_acks: false,
        }
    }

    fn register(
        session: &mut Session,
        socket_id: Option<&str>,
        groups: &[&str],
    ) -> Result<String, SessionError> {
        let change = session.plan_register(&asked(socket_id, groups), LIMITS)?;
        session.take_over(&change, |_| Position(1));
        let text = |targets: &[Target]| targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        Ok(format!("+{} -{}", text(&change.joins), text(&change.leaves)))
    }

    #[test]
    fn registering_is_additive_and_idempotent() {
        let mut session = Session::default();
        assert_eq!(register(&mut session, Some("a"), &["g"]).unwrap(), "+s:a g:g * -");
        assert_eq!(register(&mut session, Some("a"), &["g", "g"]).unwrap(), "+ -");
        assert_eq!(register(&mut session, None, &["h", "h"]).unwrap(), "+g:h -");
        assert_eq!(register(&mut session, Some("b"), &[]).unwrap(), "+s:b -s:a");
        assert_eq!(session.socket_id(), Some("b"));
        assert_eq!(session.groups().collect::<Vec<_>>(), ["g", "h"]);
    }

    #[test]
    fn what_is_asked_wrongly_changes_nothing() {
        let mut session = Session::default();
        register(&mut session, Some("a"), &["g"]).unwrap();
        let before = session.clone();
        for (socket_id, groups, code) in [
            (Some(""), &["h"][..], "invalid_id"),
            (Some("123456789"), &[], "id_too_long"),
            (None, &["*"], "invalid_id"),
            (None, &[""], "invalid_id"),
            (None, &["h", "i"], "too_many_groups"),
        ] {
            assert_eq!(register(&mut session, socket_id, groups).unwrap_err().code(), code);
            assert_eq!(session, before);
        }
    }

    #[test]
    fn leaving_undoes_groups_only() {
        let mut session = Session::default();
        register(&mut session, Some("a"), &["g", "h"]).unwrap();
        let change = session.plan_leave(&["g".into(), "x".into(), "g".into()], LIMITS).unwrap();
        session.take_over(&change, |_| Position(0));
        assert_eq!(session.groups().collect::<Vec<_>>(), ["h"]);
        assert!(session.plan_leave(&["*".into()], LIMITS).is_err());
        session.lose(&Target::socket("a", 8).unwrap());
        assert_eq!(session.socket_id(), None);
    }
}
