//! The suite on the bus in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // functions that tests share are tests too

mod server;
mod suite;

use herald_bus::{Bus, LogConfig};
use suite::Bench;

async fn bench(log: LogConfig) -> Bench {
    Bench { bus: Bus::memory(log), one_clock: true, _server: None }
}

on_every_bus!(bench);
