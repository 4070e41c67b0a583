//! Which volatile messages are dropped while messages must wait: the oldest, by age. Pure.
//!
//! In one queue a volatile message stands behind the reliable ones that came before it. While those wait, it is
//! late whatever is done with it; dropped, it makes way for a younger one, and what is delivered is worth having.

use herald_wire::Envelope;

/// A volatile message older than this is dropped while messages must wait. With the time that edges may be late, those
/// delivered are younger than a quarter of a second.
pub(super) const AGE_MAX_US: u64 = 100_000;
/// AMQP's `timestamp` is in whole seconds: what it says may be up to this much before the truth.
const SECOND_US: u64 = 1_000_000;

/// Whether the message may be dropped, and is too old. Its age counts from when its producer sent it, where that is
/// known, else from when it was first seen here.
pub(super) fn is_too_old(envelope: &Envelope, seen_at_us: u64, now_us: u64) -> bool {
    if envelope.reliable {
        return false;
    }
    let since_us = match envelope.sent_at_us {
        0 => seen_at_us,
        // in whole seconds, or by chance in one case of a thousand
        sent if sent % SECOND_US == 0 => (sent + SECOND_US - 1).min(seen_at_us),
        sent => sent,
    };
    now_us.saturating_sub(since_us) > AGE_MAX_US
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_and_volatile_go() {
        let now = 1_700_000_000_000_000;
        for (reliable, sent_ago_us, seen_ago_us, shed) in [
            (false, Some(150_000), 0, true),
            (false, Some(50_000), 0, false),
            (true, Some(9_000_000), 9_000_000, false),
            (false, None, 0, false),
            (false, None, 150_000, true),
            // a producer's clock that is ahead makes nothing old
            (false, Some(-3_000_000), 0, false),
            // whole seconds: old only when their end is
            (false, Some(1_000_000), 0, false),
            (false, Some(2_000_000), 0, true),
        ] {
            let sent_at_us = sent_ago_us.map_or(0, |ago: i64| (now - ago) as u64);
            let envelope = Envelope { reliable, sent_at_us, ..Envelope::default() };
            let now = now as u64;
            assert_eq!(is_too_old(&envelope, now - seen_ago_us, now), shed, "{sent_ago_us:?} {seen_ago_us}");
        }
    }
}
