//! Every row of what a plan is made from, and that arbitrary bytes never panic.

use proptest::prelude::*;

use super::*;

const NOW_MS: u64 = 1_800_000_000_000;
const TTL_MS: u64 = 600_000;
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn planned_at(body: &str, meta: &Meta<'_>, now_ms: u64) -> Result<Plan, Refusal> {
    let rules = Rules { limits: Limits { message_id_bytes_max: 8, ..Limits::DEFAULT }, ttl_ms: TTL_MS };
    let moment = Moment { now_us: now_ms * 1_000, random: 0xabc };
    Plan::new(&Bytes::copy_from_slice(body.as_bytes()), meta, &rules, moment)
}

fn planned(body: &str, meta: &Meta<'_>) -> Result<Plan, Refusal> {
    planned_at(body, meta, NOW_MS)
}

const VOLATILE: &str = r#"{"socketSessionId":"a","data":1}"#;
const RELIABLE: &str = r#"{"socketSessionId":"a","isVolatile":false}"#;
const TWO: &str = r#"{"socketSessionId":"a","socketGroupFlag":"g"}"#;

#[test]
fn a_message_becomes_one_publication_per_target() {
    let mut plan = planned(TWO, &Meta { traceparent: Some(TRACE), ..Meta::default() }).unwrap();
    let bytes = plan.encode(NOW_MS * 1_000 + 7);
    let publications: Vec<_> = (0..2).filter_map(|i| plan.publication(i, bytes.clone())).collect();
    assert!(plan.publication(2, bytes).is_none());
    assert_eq!(publications[0].target.as_str(), "s:a");
    assert_eq!(publications[1].target.as_str(), "g:g");
    let envelope = Envelope::read(publications[1].envelope.clone()).unwrap();
    assert_eq!(envelope.body, TWO);
    assert_eq!(envelope.traceparent, TRACE);
    assert_eq!(envelope.copies_id, 0xabc);
    assert_eq!((envelope.received_at_us, envelope.published_at_us), (NOW_MS * 1_000, NOW_MS * 1_000 + 7));
}

#[test]
fn one_target_needs_no_copies_id_and_an_id_makes_it_the_same_again() {
    assert_eq!(planned(VOLATILE, &Meta::default()).unwrap().envelope.copies_id, 0);
    let id = |id| planned(TWO, &Meta { message_id: Some(id), ..Meta::default() }).unwrap().envelope.copies_id;
    assert_eq!(id("m1"), id("m1"));
    assert_ne!(id("m1"), id("m2"));
    assert_eq!(copies_id(None, 0), 1);
}

#[test]
fn duplicates_are_told_by_the_producers_id_or_a_name_for_this_delivery() {
    let dedup_id = |body, message_id| {
        planned(body, &Meta { message_id, ..Meta::default() }).unwrap().dedup_id.map(|id| id.to_string())
    };
    assert_eq!(dedup_id(VOLATILE, Some("m")).as_deref(), Some("m"));
    assert_eq!(dedup_id(VOLATILE, None), None);
    assert_eq!(dedup_id(VOLATILE, Some("")), None);
    assert_eq!(dedup_id(RELIABLE, None), Some(format!("{:032x}", 0xabc)));
    assert_eq!(planned(RELIABLE, &Meta::default()).unwrap().envelope.message_id, "");
}

/// Expiration, time sent, then: what the envelope says, and when ingest gives up, both relative to now.
#[test]
fn the_time_to_live_runs_from_when_it_was_sent() {
    let seconds = |ms: u64| Some(Sent::Seconds(ms / 1_000));
    type Row = (&'static str, Option<&'static str>, Option<Sent>, u64, u64);
    let rows: [Row; 10] = [
        (VOLATILE, None, None, 0, TTL_MS),
        (VOLATILE, Some("5000"), None, 5_000, 5_000),
        (RELIABLE, None, None, TTL_MS, TTL_MS),
        (RELIABLE, Some("99999999"), None, TTL_MS, TTL_MS),
        (RELIABLE, None, Some(Sent::Millis(NOW_MS - 2 * TTL_MS)), TTL_MS, TTL_MS),
        (RELIABLE, Some("5000"), Some(Sent::Millis(NOW_MS - 1_500)), 3_500, 3_500),
        // a whole second: its end counts
        (RELIABLE, Some("5000"), seconds(NOW_MS - 2_000), 3_999, 3_999),
        // a clock ahead of ours gives no more time
        (RELIABLE, Some("5000"), Some(Sent::Millis(NOW_MS + 30_000)), 5_000, 5_000),
        // not believable: milliseconds where seconds are due, or the year 1970
        (RELIABLE, Some("5000"), Some(Sent::Seconds(NOW_MS)), 5_000, 5_000),
        (RELIABLE, Some("5000"), Some(Sent::Seconds(0)), 5_000, 5_000),
    ];
    for (body, expiration, sent, expires_in_ms, gives_up_in_ms) in rows {
        let plan = planned(body, &Meta { expiration, sent, ..Meta::default() }).unwrap();
        let expected = if expires_in_ms == 0 { 0 } else { NOW_MS + expires_in_ms };
        assert_eq!(plan.envelope.expires_at_ms, expected, "{body} {expiration:?} {sent:?}");
        assert_eq!(plan.give_up_at_ms, NOW_MS + gives_up_in_ms, "{body} {expiration:?} {sent:?}");
    }
}

#[test]
fn the_time_sent_is_kept_only_if_believable() {
    let sent_at =
        |sent| planned(VOLATILE, &Meta { sent: Some(sent), ..Meta::default() }).unwrap().envelope.sent_at_us;
    assert_eq!(sent_at(Sent::Millis(NOW_MS - 5)), (NOW_MS - 5) * 1_000);
    assert_eq!(sent_at(Sent::Seconds(NOW_MS / 1_000)), NOW_MS * 1_000);
    assert_eq!(sent_at(Sent::Millis(u64::MAX)), 0);
    assert_eq!(sent_at(Sent::Seconds(u64::MAX)), 0);
}

#[test]
fn what_is_not_published_says_why() {
    let meta = Meta::default();
    let rows = [
        (VOLATILE, Meta { message_id: Some("123456789"), ..meta }, "invalid_message_id"),
        (VOLATILE, Meta { expiration: Some(""), ..meta }, "invalid_expiration"),
        (VOLATILE, Meta { expiration: Some("+5"), ..meta }, "invalid_expiration"),
        (VOLATILE, Meta { expiration: Some("-5"), ..meta }, "invalid_expiration"),
        (VOLATILE, Meta { expiration: Some("1.5"), ..meta }, "invalid_expiration"),
        (VOLATILE, Meta { expiration: Some("99999999999999999999"), ..meta }, "invalid_expiration"),
        (VOLATILE, Meta { expiration: Some("0"), ..meta }, "expired"),
        (VOLATILE, Meta { expiration: Some("10"), sent: Some(Sent::Millis(NOW_MS - 11)), ..meta }, "expired"),
        ("{", meta, "malformed"),
        ("{}", meta, "no_target"),
        (r#"{"socketGroupFlag":""}"#, meta, "invalid_target"),
    ];
    for (body, meta, label) in rows {
        assert_eq!(planned(body, &meta).unwrap_err().label(), label, "{body} {meta:?}");
    }
    let long = "é".repeat(100);
    let refusal = planned(VOLATILE, &Meta { expiration: Some(&long), ..meta }).unwrap_err();
    assert!(refusal.to_string().len() < 150, "{refusal}");
}

#[test]
fn a_plan_expires_while_it_waits() {
    let plan = planned(VOLATILE, &Meta { expiration: Some("10"), ..Meta::default() }).unwrap();
    assert_eq!(plan.expired(NOW_MS + 9), None);
    assert_eq!(plan.expired(NOW_MS + 12), Some(Refusal::Expired { late_ms: 2 }));
}

#[test]
fn a_trace_context_that_is_not_well_formed_is_ignored() {
    assert!(is_traceparent(TRACE));
    for bad in [
        "",
        "00",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7é1",
    ] {
        assert!(!is_traceparent(bad), "{bad}");
    }
}

proptest! {
    #[test]
    fn nothing_panics_and_nothing_waits_longer_than_the_ttl(
        body: Vec<u8>,
        message_id in proptest::option::of(".{0,12}"),
        expiration in proptest::option::of("[0-9+ -]{0,24}|.{0,60}"),
        sent in proptest::option::of(any::<u64>()),
        in_seconds: bool,
        traceparent in proptest::option::of(".{0,60}"),
        valid: bool,
        now_ms in 0..1_u64 << 45,
    ) {
        let meta = Meta {
            message_id: message_id.as_deref(),
            expiration: expiration.as_deref(),
            sent: sent.map(if in_seconds { Sent::Seconds } else { Sent::Millis }),
            traceparent: traceparent.as_deref(),
        };
        let rules = Rules { limits: Limits::DEFAULT, ttl_ms: TTL_MS };
        let body = if valid { Bytes::from_static(TWO.as_bytes()) } else { body.into() };
        match Plan::new(&body, &meta, &rules, Moment { now_us: now_ms * 1_000, random: 0 }) {
            Ok(plan) => {
                prop_assert!(plan.give_up_at_ms > now_ms && plan.give_up_at_ms <= now_ms + TTL_MS);
                prop_assert!(!plan.targets.is_empty());
                prop_assert!(plan.targets.len() == 1 || plan.envelope.copies_id != 0);
            }
            Err(refusal) => prop_assert!(refusal.to_string().len() < 1_000),
        }
    }
}
