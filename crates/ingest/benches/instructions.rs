//! The work of `plan`, in instructions instead of time. `bench/instructions`

#![allow(missing_docs, unused_qualifications)] // of what the macros make

mod work;

use std::hint::black_box;

use gungraun::prelude::*;

// a thousand times, so that what only the first costs does not show.
#[library_benchmark]
#[bench::plan_and_encode_for_a_group_200(work::plan_and_encode_for_a_group(200))]
#[bench::plan_and_encode_for_a_group_2000(work::plan_and_encode_for_a_group(2_000))]
#[bench::plan_and_encode_for_ten_clients(work::plan_and_encode_for_ten_clients())]
#[bench::refuse_what_is_no_json(work::refuse_what_is_no_json())]
fn repeat_x1000<T>(mut work: impl FnMut() -> T) {
    for _ in 0..1_000 {
        black_box(work());
    }
}

library_benchmark_group!(name = ingest, benchmarks = repeat_x1000);
main!(library_benchmark_groups = ingest);
