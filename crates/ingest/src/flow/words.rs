//! What is the bottleneck, in one sentence for people. Pure.

use super::controller::{Cause, Readings};
use super::{Heard, Step};

/// What is too late or too full.
pub(super) fn why(cause: Cause, readings: &Readings, heard: Option<&Heard>) -> String {
    match cause {
        Cause::EdgeLate | Cause::EdgeFull => heard.map(|heard| heard.bottleneck.clone()).unwrap_or_default(),
        Cause::RedisSlow => format!("Redis took {} ms to answer", readings.redis_latency.as_millis()),
        Cause::RedisBacklog => {
            let kib = readings.backlog_bytes / 1_024;
            format!("Redis holds {kib} KiB back for an edge that does not read its feed")
        }
        Cause::IngestBusy => {
            format!("this ingest takes {} ms for a message, and no more at a time", readings.stay.as_millis())
        }
        Cause::Blind => "the registry does not say how the edges are".to_owned(),
    }
}

/// For `/readyz` and the log. `why`: what was the matter last.
pub(super) fn sentence(step: &Step, why: &str, knows_edges: bool) -> String {
    let pace = step.pace.round();
    let blind = self::why(Cause::Blind, &step.readings, None);
    match step.pressed {
        Some(Cause::Blind) => format!("messages wait, {pace} a second pass: {blind}"),
        Some(_) => format!("messages wait, {pace} a second pass: {why}"),
        None if knows_edges => format!("nothing is held back: up to {pace} messages a second pass"),
        None => format!("{blind}: up to {pace} messages a second pass"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::flow::controller::Stepped;

    #[test]
    fn the_bottleneck_is_named() {
        let readings = Readings { backlog_bytes: 3 << 20, ..Readings::default() };
        let heard = Heard { bottleneck: "the edge at e:1 is 230 ms behind".to_owned(), ..Heard::default() };
        let step = |pressed| {
            let stepped = Stepped { congested: None, cut: false };
            Step { readings, stepped, window: 99.0, pace: 396.0, tolerated: Duration::ZERO, pressed }
        };
        let late = why(Cause::EdgeLate, &readings, Some(&heard));
        let backlog = why(Cause::RedisBacklog, &readings, Some(&heard));
        for (pressed, why, knows_edges, words) in [
            (None, &late, true, "nothing is held back: up to 396 messages a second pass"),
            (
                None,
                &late,
                false,
                "the registry does not say how the edges are: up to 396 messages a second pass",
            ),
            (
                Some(Cause::EdgeLate),
                &late,
                true,
                "messages wait, 396 a second pass: the edge at e:1 is 230 ms behind",
            ),
            (
                Some(Cause::RedisBacklog),
                &backlog,
                true,
                "messages wait, 396 a second pass: Redis holds 3072 KiB back for an edge that does not read its feed",
            ),
            (
                Some(Cause::Blind),
                &late,
                false,
                "messages wait, 396 a second pass: the registry does not say how the edges are",
            ),
        ] {
            assert_eq!(sentence(&step(pressed), why, knows_edges), words);
        }
    }
}
