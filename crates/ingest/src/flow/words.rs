//! What is the bottleneck, in one sentence for people. Pure.

use super::controller::Cause;
use super::{Heard, Step};

/// For `/readyz` and the log.
pub(super) fn sentence(step: &Step, heard: Option<&Heard>) -> String {
    let pace = step.pace.round();
    let Some(cause) = step.pressed else {
        return match heard {
            Some(_) => format!("nothing is held back: up to {pace} messages a second pass"),
            None => {
                format!("the registry does not say how the edges are: up to {pace} messages a second pass")
            }
        };
    };
    let why = match cause {
        Cause::EdgeLate | Cause::EdgeFull => {
            heard.map_or("an edge was behind", |heard| &heard.bottleneck).to_owned()
        }
        Cause::RedisSlow => {
            format!("Redis took {} ms to answer", step.readings.redis_latency.as_millis())
        }
        Cause::RedisBacklog => {
            let kib = step.readings.backlog_bytes / 1_024;
            format!("Redis holds {kib} KiB back for an edge that does not read its feed")
        }
        Cause::Blind => "the registry does not say how the edges are".to_owned(),
    };
    format!("messages wait, {pace} a second pass: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::controller::Readings;

    #[test]
    fn the_bottleneck_is_named() {
        let heard = Heard { bottleneck: "the edge at e:1 is 230 ms behind".to_owned(), ..Heard::default() };
        let step = |pressed| Step {
            readings: Readings { backlog_bytes: 3 << 20, ..Readings::default() },
            cut: None,
            window: 99.0,
            pace: 396.0,
            pressed,
        };
        for (pressed, heard, words) in [
            (None, Some(&heard), "nothing is held back: up to 396 messages a second pass"),
            (None, None, "the registry does not say how the edges are: up to 396 messages a second pass"),
            (
                Some(Cause::EdgeLate),
                Some(&heard),
                "messages wait, 396 a second pass: the edge at e:1 is 230 ms behind",
            ),
            (
                Some(Cause::RedisBacklog),
                Some(&heard),
                "messages wait, 396 a second pass: Redis holds 3072 KiB back for an edge that does not read its feed",
            ),
            (
                Some(Cause::Blind),
                None,
                "messages wait, 396 a second pass: the registry does not say how the edges are",
            ),
        ] {
            assert_eq!(sentence(&step(pressed), heard), words);
        }
    }
}
