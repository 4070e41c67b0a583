//! What is measured, by time and by instructions alike: each function prepares, and returns the work itself.

use std::hint::black_box;

use bytes::Bytes;
use herald_ingest::plan::{Meta, Moment, Plan, Rules};
use herald_wire::Limits;

const RULES: Rules = Rules { limits: Limits::DEFAULT, ttl_ms: 600_000 };
const NOW_US: u64 = 1_790_000_000_000_000;

pub(crate) fn plan_and_encode_for_a_group(bytes: usize) -> impl Fn() -> Option<Bytes> {
    plan(body(r#""socketGroupFlag":"news""#, bytes))
}

pub(crate) fn plan_and_encode_for_ten_clients() -> impl Fn() -> Option<Bytes> {
    let ids: Vec<String> = (0..10).map(|n| format!(r#""client-{n:06}""#)).collect();
    plan(body(&format!(r#""socketSessionId":[{}]"#, ids.join(",")), 200))
}

pub(crate) fn refuse_what_is_no_json() -> impl Fn() -> Option<Bytes> {
    plan(Bytes::from_static(b"hello"))
}

fn plan(body: Bytes) -> impl Fn() -> Option<Bytes> {
    move || {
        let moment = Moment { now_us: NOW_US, random: 42 };
        let mut plan = Plan::new(black_box(&body), &Meta::default(), &RULES, moment).ok()?;
        Some(plan.encode(NOW_US))
    }
}

fn body(target: &str, bytes: usize) -> Bytes {
    format!(r#"{{{target},"isVolatile":false,"data":"{:0>bytes$}"}}"#, 7).into()
}
