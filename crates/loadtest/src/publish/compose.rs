//! Messages as producers write them.

use std::sync::Arc;

use super::Job;
use crate::mark::{MARK_BYTES, Mark};
use crate::plan::{Cast, Plan, Round};

/// Writes the bodies of a round's messages.
#[derive(Clone, Debug)]
pub(crate) struct Composer {
    cast: Cast,
    round: Arc<Round>,
    padding: usize,
}

/// `{"mark":"…","pad":""}` without the mark.
const FRAME_BYTES: usize = r#"{,"pad":""}"#.len();

impl Composer {
    pub(crate) fn new(plan: &Plan, round: Arc<Round>) -> Self {
        let padding = plan.data_bytes.saturating_sub(MARK_BYTES + FRAME_BYTES);
        Self { cast: plan.cast.clone(), round, padding }
    }

    /// Whether this message must not be lost.
    pub(crate) fn is_reliable(&self, job: &Job) -> bool {
        self.round.streams.get(usize::from(job.stream)).is_some_and(|stream| stream.reliable)
    }

    /// Names this message to those who are to recognise it when it comes again.
    pub(crate) fn id(&self, job: &Job) -> String {
        format!("{:08x}-{}-{}-{}", self.round.run, job.stream, job.target, job.number)
    }

    /// The round's number.
    pub(crate) fn run(&self) -> u32 {
        self.round.run
    }

    /// Appends the message.
    pub(crate) fn write(&self, job: &Job, out: &mut Vec<u8>) {
        let Some(stream) = self.round.streams.get(usize::from(job.stream)) else { return };
        let field: &[u8] = match stream.audience {
            crate::plan::Audience::Client => br#"{"socketSessionId":""#,
            _ => br#"{"socketGroupFlag":""#,
        };
        out.extend_from_slice(field);
        out.extend_from_slice(self.cast.name(stream.audience, job.target).as_bytes());
        out.extend_from_slice(br#"","isVolatile":"#);
        out.extend_from_slice(if stream.reliable { b"false" } else { b"true" });
        out.extend_from_slice(br#","data":{"#);
        let mark = Mark {
            run: self.round.run,
            stream: job.stream,
            target: job.target,
            number: job.number,
            scheduled_us: job.at_us,
        };
        mark.write(out);
        out.extend_from_slice(br#","pad":""#);
        out.resize(out.len() + self.padding, b'.');
        out.extend_from_slice(br#""}}"#);
    }
}
