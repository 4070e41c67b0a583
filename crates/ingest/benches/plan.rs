//! What it costs to decide about one message, and to encode what is published.
//! `cargo bench -p herald-ingest --bench plan`

mod work;

use divan::Bencher;

fn main() {
    divan::main();
}

#[divan::bench(args = [200, 2_000])]
fn plan_and_encode_for_a_group(bencher: Bencher<'_, '_>, bytes: usize) {
    bencher.bench(work::plan_and_encode_for_a_group(bytes));
}

#[divan::bench]
fn plan_and_encode_for_ten_clients(bencher: Bencher<'_, '_>) {
    bencher.bench(work::plan_and_encode_for_ten_clients());
}

#[divan::bench]
fn refuse_what_is_no_json(bencher: Bencher<'_, '_>) {
    bencher.bench(work::refuse_what_is_no_json());
}
