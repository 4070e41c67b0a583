//! What a batch of publications is in Redis' commands, and what the answers mean. Neighbours that are logged go in one
//! call of a script: most of what a message costs Redis is the call. Sending is `nodes`'.

use std::ops::Range;

use redis::{Cmd, RedisError, Value, cmd};

use super::script::{Lua, Scripts};
use super::{millis, nodes, reply};
use crate::{BusError, LogConfig, Publication, Published};
use herald_wire::{Names, Position, Target};

/// Publications that one call logs at most ...
const RUN_MAX: usize = 64;
/// ... and what their envelopes come to, unless one alone is larger: meanwhile Redis does nothing else.
const RUN_BYTES_MAX: usize = 256 * 1024;

/// Publications of a batch that go in one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) of: Range<usize>,
    pub(super) slot: u16,
}

/// What a call is made of, beside its publications.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    pub(super) names: &'a Names,
    pub(super) log: &'a LogConfig,
    pub(super) is_cluster: bool,
}

/// Cuts a batch into calls, in its order. Only what is logged goes together, and only in one slot.
pub(super) fn runs(batch: &[Publication], slot_of: impl Fn(&Target) -> u16) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    // of the last run, while it takes more
    let mut bytes = None;
    for (index, publication) in batch.iter().enumerate() {
        let slot = slot_of(&publication.target);
        let size = publication.envelope.len();
        match (runs.last_mut(), bytes) {
            (Some(run), Some(held))
                if publication.reliable
                    && run.slot == slot
                    && run.of.len() < RUN_MAX
                    && held + size <= RUN_BYTES_MAX =>
            {
                run.of.end = index + 1;
                bytes = Some(held + size);
            }
            _ => {
                runs.push(Run { of: index..index + 1, slot });
                bytes = publication.reliable.then_some(size);
            }
        }
    }
    runs
}

impl Words<'_> {
    /// The call for the publications of one run.
    pub(super) fn call(self, run: &[Publication], scripts: &Scripts, script: fn(&Lua) -> Cmd) -> Cmd {
        match run {
            [publication] if !publication.reliable => self.volatile(publication, scripts, script),
            _ => self.logged(run, script(&scripts.publish)),
        }
    }

    fn volatile(self, publication: &Publication, scripts: &Scripts, script: fn(&Lua) -> Cmd) -> Cmd {
        let Publication { target, envelope, message_id, .. } = publication;
        let channel = self.names.channel(target);
        match message_id {
            None => {
                let mut call = cmd(self.publish());
                call.arg(channel).arg(envelope.as_ref());
                call
            }
            Some(message_id) => {
                let mut call = script(&scripts.publish_once);
                call.arg(1).arg(self.names.seen(target, message_id));
                call.arg(envelope.as_ref()).arg(channel).arg(self.publish());
                call.arg(millis(self.log.dedup_window));
                call
            }
        }
    }

    fn logged(self, run: &[Publication], mut call: Cmd) -> Cmd {
        let keyed = run.iter().filter(|publication| publication.message_id.is_some()).count();
        call.arg(usize::from(!self.is_cluster) + 2 * run.len() + keyed);
        // in a cluster no key is common to all targets, and a target's own clock is its last position
        if !self.is_cluster {
            call.arg(self.names.clock());
        }
        for Publication { target, message_id, .. } in run {
            call.arg(self.names.log(target)).arg(self.names.last(target));
            if let Some(message_id) = message_id {
                call.arg(self.names.seen(target, message_id));
            }
        }
        call.arg(self.publish()).arg(self.log.entries_max).arg(millis(self.log.age));
        call.arg(millis(self.log.log_ttl())).arg(millis(self.log.last_ttl()));
        call.arg(millis(self.log.dedup_window)).arg(u8::from(!self.is_cluster));
        for Publication { target, envelope, message_id, .. } in run {
            call.arg(envelope.as_ref()).arg(self.names.channel(target)).arg(u8::from(message_id.is_some()));
        }
        call
    }

    fn publish(self) -> &'static str {
        if self.is_cluster { "SPUBLISH" } else { "PUBLISH" }
    }
}

/// What the answer to a run's call says about each publication of it. `refused` tells whose refusal it is.
pub(super) fn read(
    run: &[Publication],
    answer: Result<Value, BusError>,
    refused: impl Fn(RedisError) -> BusError,
    outcomes: &mut Vec<Result<Published, BusError>>,
) {
    match answer {
        Ok(Value::Array(answers)) if answers.len() == run.len() => {
            outcomes.extend(answers.into_iter().map(|answer| logged(answer, &refused)));
        }
        Ok(value) => match run {
            [publication] if !publication.reliable => outcomes.push(sent(&value)),
            _ => {
                outcomes.extend(run.iter().map(|_| Err(nodes::unexpected("not an answer for each message"))));
            }
        },
        Err(error) => outcomes.extend(run.iter().map(|_| Err(error.clone()))),
    }
}

fn logged(answer: Value, refused: impl Fn(RedisError) -> BusError) -> Result<Published, BusError> {
    match answer {
        Value::Nil => Ok(Published::Duplicate),
        Value::ServerError(error) => Err(refused(RedisError::from(error))),
        value => match reply::number(&value) {
            Some(position) => Ok(Published::Logged(Position(position))),
            None => Err(nodes::unexpected("no position")),
        },
    }
}

fn sent(value: &Value) -> Result<Published, BusError> {
    match value {
        Value::Nil => Ok(Published::Duplicate),
        value => match reply::number(value) {
            Some(receivers) => Ok(Published::Sent { receivers }),
            None => Err(nodes::unexpected("no number of receivers")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn publication(id: &str, reliable: bool, size: usize) -> Publication {
        Publication {
            target: Target::socket(id, 9).unwrap(),
            envelope: Bytes::from(vec![0; size]),
            reliable,
            message_id: None,
        }
    }

    fn cut(batch: &[Publication]) -> Vec<Range<usize>> {
        runs(batch, |target| u16::from(target.to_string().contains('b')))
            .into_iter()
            .map(|run| run.of)
            .collect()
    }

    #[test]
    fn neighbours_that_are_logged_go_together() {
        let (a, b, v) = (publication("a", true, 1), publication("b", true, 1), publication("a", false, 1));
        let batch = [&a, &a, &v, &a, &v, &v, &b, &b, &a].map(Clone::clone);
        assert_eq!(cut(&batch), [0..2, 2..3, 3..4, 4..5, 5..6, 6..8, 8..9]);
        assert_eq!(cut(&[]), []);
    }

    #[test]
    fn a_run_is_bounded_by_count_and_bytes() {
        assert_eq!(cut(&vec![publication("a", true, 9); RUN_MAX + 2]), [0..RUN_MAX, RUN_MAX..RUN_MAX + 2]);
        let large = vec![publication("a", true, RUN_BYTES_MAX / 2); 3];
        assert_eq!(cut(&large), [0..2, 2..3]);
        assert_eq!(cut(&vec![publication("a", true, 2 * RUN_BYTES_MAX); 2]), [0..1, 1..2]);
    }

    #[test]
    fn an_answer_that_is_none_is_told_for_each() {
        let run = [publication("a", true, 1), publication("a", true, 1)];
        let mut outcomes = Vec::new();
        read(&run, Ok(Value::Array(vec![Value::Int(5)])), |_| panic!(), &mut outcomes);
        assert!(outcomes.len() == 2 && outcomes.iter().all(|o| matches!(o, Err(BusError::Reply { .. }))));
    }
}
