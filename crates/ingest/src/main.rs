//! `herald-ingest`: settings in, ingest on Redis running.

use std::process::ExitCode;

use herald_bus::Bus;
use herald_chassis::{Binary, MiMalloc};
use herald_ingest::Settings;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let binary = Binary { name: "herald-ingest", version: env!("CARGO_PKG_VERSION") };
    herald_chassis::run(binary, async |settings: Settings, ctx| {
        let bus = Bus::redis(settings.redis()).await?;
        let listener = herald_chassis::listen("HERALD_LISTEN", settings.listen)?;
        herald_ingest::start(settings.config(), bus, listener, &ctx)
    })
}
