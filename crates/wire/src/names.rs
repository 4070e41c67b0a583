//! Every key and channel on Redis, named in one place.
//!
//! All names of one target carry the same hash tag (Redis Cluster specification, "Hash tags"), so one script can touch
//! them all. A tag ends at the first `}`: a target whose id holds one shares its slot with others, which costs nothing
//! but balance. Tags are never empty, because a target's text never is.

use crate::{Position, Target};

/// Names under one prefix, so that several Heralds can share a Redis.
#[derive(Clone, Debug)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// The prefix a deployment gets that sets nothing.
    pub const PREFIX_DEFAULT: &'static str = "herald";

    /// Names that start with `<prefix>:`.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The pub/sub channel of a target.
    pub fn channel(&self, target: &Target) -> String {
        format!("{}:{{{target}}}", self.prefix)
    }

    /// The text of the target whose pub/sub channel this is.
    pub fn target_of<'c>(&self, channel: &'c str) -> Option<&'c str> {
        channel.strip_prefix(self.prefix.as_str())?.strip_prefix(":{")?.strip_suffix('}')
    }

    /// What an edge calls its feed's connections to Redis, so that others can tell how far behind they are. Redis allows
    /// no spaces in it.
    pub fn feed_client(&self) -> String {
        let allowed = |c: char| if c.is_ascii_graphic() { c } else { '_' };
        format!("{}:feed", self.prefix.chars().map(allowed).collect::<String>())
    }

    /// The stream of a target's reliable messages.
    pub fn log(&self, target: &Target) -> String {
        format!("{}:log:{{{target}}}", self.prefix)
    }

    /// The position of the last entry of a target's log; outlives the log, so that the next entry's `prev` tells of
    /// those that expired.
    pub fn last(&self, target: &Target) -> String {
        format!("{}:last:{{{target}}}", self.prefix)
    }

    /// Marks a `message_id` as published to this target, for the dedup window.
    pub fn seen(&self, target: &Target, message_id: &str) -> String {
        format!("{}:seen:{{{target}}}:{message_id}", self.prefix)
    }

    /// Up to which position a socketId's sessions were sent its mailbox.
    pub fn sent(&self, target: &Target) -> String {
        format!("{}:sent:{{{target}}}", self.prefix)
    }

    /// The session that registered a socketId last.
    pub fn holder(&self, target: &Target) -> String {
        format!("{}:holder:{{{target}}}", self.prefix)
    }

    /// The last position this Redis gave (where it is one node).
    pub fn clock(&self) -> String {
        format!("{}:clock", self.prefix)
    }

    /// Names the life of the data.
    pub fn epoch(&self) -> String {
        format!("{}:epoch", self.prefix)
    }

    /// What survives of a session when its connection ends.
    pub fn session(&self, pid: &str) -> String {
        format!("{}:session:{{{pid}}}", self.prefix)
    }

    /// The registry's record of who owns a socketId.
    pub fn owner(&self, socket_id: &str) -> String {
        format!("{}:owner:{{{socket_id}}}", self.prefix)
    }

    /// The registry's record of an edge; lives as long as its lease.
    pub fn edge(&self, edge_id: &str) -> String {
        format!("{}:edge:{{{edge_id}}}", self.prefix)
    }

    /// All edges, by the end of their lease.
    pub fn edges(&self) -> String {
        format!("{}:edges", self.prefix)
    }

    /// The socketIds an edge owns, so that they can be swept when it dies.
    pub fn edge_claims(&self, edge_id: &str) -> String {
        format!("{}:claims:{{{edge_id}}}", self.prefix)
    }

    /// The pub/sub channel on which registry replicas tell each other what their edges must hear.
    pub fn registry_events(&self) -> String {
        format!("{}:registry-events", self.prefix)
    }
}

/// The target through which an edge probes its own feed: a group no client can register for, since control characters
/// are refused.
pub fn probe(edge_id: &str) -> Target {
    Target::from_text(&format!("g:\u{1}probe:{edge_id}")).unwrap_or_else(Target::everyone)
}

/// The stream id just after `position`, for reading a log from there on.
pub fn after(position: Position) -> String {
    format!("({}", position.stream_id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(name: &str) -> &str {
        let from = name.find('{').unwrap() + 1;
        &name[from..from + name[from..].find('}').unwrap()]
    }

    #[test]
    fn all_names_of_a_target_share_its_hash_tag() {
        let names = Names::new("herald");
        for id in ["alice", "a}b", "{a}", "}", "{"] {
            let target = Target::socket(id, 64).unwrap();
            let all = [
                names.channel(&target),
                names.log(&target),
                names.last(&target),
                names.seen(&target, "m"),
                names.sent(&target),
                names.holder(&target),
            ];
            for name in &all {
                assert_eq!(tag(name), tag(&all[0]), "{name}");
                assert!(!tag(name).is_empty());
            }
        }
    }

    #[test]
    fn a_channel_names_its_target() {
        let names = Names::new("test");
        for text in ["s:a}b", "g:room 1", "*"] {
            let target = Target::from_text(text).unwrap();
            assert_eq!(names.target_of(&names.channel(&target)), Some(text));
        }
        assert_eq!(names.target_of("other:{s:a}"), None);
        assert_eq!(names.target_of("test:log:{s:a}"), None);
    }
}
