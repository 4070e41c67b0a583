//! The fault suite for as long as asked: `scripts/faults SECONDS SEED`.

#![allow(clippy::print_stdout, reason = "the report is what it is for")]

use std::process::ExitCode;
use std::time::Duration;

use herald_e2e::faults::Run;

#[tokio::main]
async fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (Some(Ok(seconds)), Some(Ok(seed))) = (numbers.next(), numbers.next()) else {
        println!("usage: faults SECONDS SEED");
        return ExitCode::from(2);
    };
    let run = Run { duration: Duration::from_secs(seconds), seed, rate: 150, plain: 24, official: 12 };
    let report = run.run().await;
    println!("{report}");
    let total = report.total();
    let is_kept = total.reliable[1..] == [0, 0, 0] && report.sessions_lost == 0 && report.foreign == 0;
    if is_kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
