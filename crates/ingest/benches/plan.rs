//! What it costs to decide about one message, and to encode what is published. `cargo bench -p herald-ingest`

use bytes::Bytes;
use divan::{Bencher, black_box};
use herald_ingest::plan::{Meta, Moment, Plan, Rules};
use herald_wire::Limits;

fn main() {
    divan::main();
}

const RULES: Rules = Rules { limits: Limits::DEFAULT, ttl_ms: 600_000 };
const NOW_US: u64 = 1_790_000_000_000_000;

fn body(target: &str, bytes: usize) -> Bytes {
    format!(r#"{{{target},"isVolatile":false,"data":"{:0>bytes$}"}}"#, 7).into()
}

#[divan::bench(args = [200, 2_000])]
fn plan_and_encode_for_a_group(bencher: Bencher<'_, '_>, bytes: usize) {
    let body = body(r#""socketGroupFlag":"news""#, bytes);
    bencher.bench(|| plan(&body));
}

#[divan::bench]
fn plan_and_encode_for_ten_clients(bencher: Bencher<'_, '_>) {
    let ids: Vec<String> = (0..10).map(|n| format!(r#""client-{n:06}""#)).collect();
    let body = body(&format!(r#""socketSessionId":[{}]"#, ids.join(",")), 200);
    bencher.bench(|| plan(&body));
}

#[divan::bench]
fn refuse_what_is_no_json(bencher: Bencher<'_, '_>) {
    let body = Bytes::from_static(b"hello");
    bencher.bench(|| plan(&body));
}

fn plan(body: &Bytes) -> Option<Bytes> {
    let moment = Moment { now_us: NOW_US, random: 42 };
    let mut plan = Plan::new(black_box(body), &Meta::default(), &RULES, moment).ok()?;
    Some(plan.encode(NOW_US))
}
