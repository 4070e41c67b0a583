//! The work of `envelope`, in instructions instead of time. `bench/instructions`

#![allow(missing_docs, unused_qualifications)] // of what the macros make

mod work;

use std::hint::black_box;

use gungraun::prelude::*;

// a thousand times, so that what only the first costs does not show.
#[library_benchmark]
#[bench::parse_a_message_200(work::parse_a_message(200))]
#[bench::parse_a_message_2000(work::parse_a_message(2_000))]
#[bench::parse_a_message_whose_data_is_json_in_a_string(
    work::parse_a_message_whose_data_is_json_in_a_string()
)]
#[bench::write_an_envelope_200(work::write_an_envelope(200))]
#[bench::write_an_envelope_2000(work::write_an_envelope(2_000))]
#[bench::read_an_envelope_and_its_place_200(work::read_an_envelope_and_its_place(200))]
#[bench::read_an_envelope_and_its_place_2000(work::read_an_envelope_and_its_place(2_000))]
#[bench::write_a_cursor(work::write_a_cursor())]
#[bench::read_a_cursor(work::read_a_cursor())]
fn repeat_x1000<T>(mut work: impl FnMut() -> T) {
    for _ in 0..1_000 {
        black_box(work());
    }
}

library_benchmark_group!(name = wire, benchmarks = repeat_x1000);
main!(library_benchmark_groups = wire);
