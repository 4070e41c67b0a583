//! What it costs to encode an event and to decode what clients send. `cargo bench -p herald-socketio --bench codec`

mod work;

use divan::Bencher;

fn main() {
    divan::main();
}

#[divan::bench(args = [200, 2_000])]
fn encode_a_message(bencher: Bencher<'_, '_>, body_bytes: usize) {
    bencher.bench(work::encode_a_message(body_bytes));
}

#[divan::bench]
fn encode_an_answer(bencher: Bencher<'_, '_>) {
    bencher.bench(work::encode_an_answer());
}

#[divan::bench]
fn decode_register(bencher: Bencher<'_, '_>) {
    bencher.bench_local(work::decode_register());
}

#[divan::bench]
fn decode_pong(bencher: Bencher<'_, '_>) {
    bencher.bench_local(work::decode_pong());
}
