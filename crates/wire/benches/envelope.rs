//! What it costs to understand a message, and to write and read what travels on Redis.
//! `cargo bench -p herald-wire --bench envelope`

mod work;

use divan::Bencher;

fn main() {
    divan::main();
}

const SIZES: [usize; 2] = [200, 2_000];

#[divan::bench(args = SIZES)]
fn parse_a_message(bencher: Bencher<'_, '_>, bytes: usize) {
    bencher.bench(work::parse_a_message(bytes));
}

#[divan::bench]
fn parse_a_message_whose_data_is_json_in_a_string(bencher: Bencher<'_, '_>) {
    bencher.bench(work::parse_a_message_whose_data_is_json_in_a_string());
}

#[divan::bench(args = SIZES)]
fn write_an_envelope(bencher: Bencher<'_, '_>, bytes: usize) {
    bencher.bench(work::write_an_envelope(bytes));
}

#[divan::bench(args = SIZES)]
fn read_an_envelope_and_its_place(bencher: Bencher<'_, '_>, bytes: usize) {
    bencher.bench(work::read_an_envelope_and_its_place(bytes));
}

#[divan::bench]
fn write_a_cursor(bencher: Bencher<'_, '_>) {
    bencher.bench(work::write_a_cursor());
}

#[divan::bench]
fn read_a_cursor(bencher: Bencher<'_, '_>) {
    bencher.bench(work::read_a_cursor());
}
