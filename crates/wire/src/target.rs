//! Whom a message is for: a socketId, a group, or every registered client.

use std::fmt;
use std::sync::Arc;

/// A target in its canonical text, which is also what names its channel: `s:<socketId>`, `g:<group>` or `*`.
/// Cloning is a reference count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target(Arc<str>);

/// What a [`Target`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind<'a> {
    /// One client.
    Socket(&'a str),
    /// Every client that registered for this group.
    Group(&'a str),
    /// Every registered client.
    Everyone,
}

/// Why a string cannot be a socketId or a group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The empty string names nobody.
    #[error("{what} must not be empty")]
    Empty {
        /// `socketId` or `group`.
        what: &'static str,
    },
    /// Longer than the limit.
    #[error("{what} is {actual} bytes long; at most {max} are allowed")]
    TooLong {
        /// `socketId` or `group`.
        what: &'static str,
        /// Its length in bytes.
        actual: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// Holds a control character (U+0000 to U+001F, U+007F), which no log or terminal shows.
    #[error("{what} must not hold control characters")]
    Control {
        /// `socketId` or `group`.
        what: &'static str,
    },
}

/// The group that stands for every registered client.
pub const EVERYONE: &str = "*";

impl Target {
    /// The client that registered this socketId.
    pub fn socket(socket_id: &str, bytes_max: usize) -> Result<Self, TargetError> {
        check("socketId", socket_id, bytes_max)?;
        Ok(Self(format!("s:{socket_id}").into()))
    }

    /// The clients that registered for this group; `"*"` is every registered client.
    pub fn group(group: &str, bytes_max: usize) -> Result<Self, TargetError> {
        if group == EVERYONE {
            return Ok(Self::everyone());
        }
        check("group", group, bytes_max)?;
        Ok(Self(format!("g:{group}").into()))
    }

    /// Every registered client.
    pub fn everyone() -> Self {
        Self(EVERYONE.into())
    }

    /// Reads the canonical text back; `None` when it is not one.
    pub fn from_text(text: &str) -> Option<Self> {
        let named = text.strip_prefix("s:").or_else(|| text.strip_prefix("g:"));
        (text == EVERYONE || named.is_some_and(|id| !id.is_empty())).then(|| Self(text.into()))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it names.
    pub fn kind(&self) -> TargetKind<'_> {
        match self.0.split_at_checked(2) {
            Some(("s:", id)) => TargetKind::Socket(id),
            Some(("g:", group)) => TargetKind::Group(group),
            _ => TargetKind::Everyone,
        }
    }
}

impl std::borrow::Borrow<str> for Target {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check(what: &'static str, id: &str, max: usize) -> Result<(), TargetError> {
    if id.is_empty() {
        return Err(TargetError::Empty { what });
    }
    if id.len() > max {
        return Err(TargetError::TooLong { what, actual: id.len(), max });
    }
    if id.bytes().any(|b| b.is_ascii_control()) {
        return Err(TargetError::Control { what });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_round_trips(id in "[^\\x00-\\x1f\\x7f]{1,40}") {
            let socket = Target::socket(&id, 256).unwrap();
            prop_assert_eq!(socket.kind(), TargetKind::Socket(&id));
            prop_assert_eq!(Target::from_text(socket.as_str()), Some(socket.clone()));
            let group = Target::group(&id, 256).unwrap();
            if id != EVERYONE {
                prop_assert_eq!(group.kind(), TargetKind::Group(&id));
            }
            prop_assert_eq!(Target::from_text(group.as_str()), Some(group));
        }
    }

    #[test]
    fn everyone_is_a_group_and_not_a_socket() {
        assert_eq!(Target::group("*", 8).unwrap(), Target::everyone());
        assert_eq!(Target::everyone().kind(), TargetKind::Everyone);
        assert_eq!(Target::socket("*", 8).unwrap().kind(), TargetKind::Socket("*"));
    }

    #[test]
    fn what_names_nobody_is_refused() {
        assert_eq!(Target::socket("", 8), Err(TargetError::Empty { what: "socketId" }));
        assert_eq!(
            Target::group("123456789", 8),
            Err(TargetError::TooLong { what: "group", actual: 9, max: 8 })
        );
        assert_eq!(Target::group("a\nb", 8), Err(TargetError::Control { what: "group" }));
        for text in ["", "s:", "g:", "x:a", "**", "a"] {
            assert_eq!(Target::from_text(text), None, "{text}");
        }
    }
}
