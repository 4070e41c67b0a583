//! The work of `codec`, in instructions instead of time. `bench/instructions`

#![allow(missing_docs, unused_qualifications)] // of what the macros make

mod work;

use std::hint::black_box;

use gungraun::prelude::*;

// a thousand times, so that what only the first costs does not show.
#[library_benchmark]
#[bench::encode_a_message_200(work::encode_a_message(200))]
#[bench::encode_a_message_2000(work::encode_a_message(2_000))]
#[bench::encode_an_answer(work::encode_an_answer())]
#[bench::decode_register(work::decode_register())]
#[bench::decode_pong(work::decode_pong())]
fn repeat_x1000<T>(mut work: impl FnMut() -> T) {
    for _ in 0..1_000 {
        black_box(work());
    }
}

library_benchmark_group!(name = socketio, benchmarks = repeat_x1000);
main!(library_benchmark_groups = socketio);
