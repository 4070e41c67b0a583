//! `herald-registry`: the registry as a process of its own.

use std::process::ExitCode;

use herald_chassis::{Binary, MiMalloc};
use herald_registry::Config;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let binary = Binary { name: "herald-registry", version: env!("CARGO_PKG_VERSION") };
    herald_chassis::run(binary, async |config: Config, ctx| {
        let store = config.store()?;
        let listener = herald_chassis::listen("HERALD_LISTEN", config.listen)?;
        tracing::info!(listen = %listener.local_addr()?, redis = %config.redis_url, "gRPC is served");
        ctx.tasks.spawn("registry", herald_registry::run(store, config.options(), listener, ctx.clone()));
        Ok(())
    })
}
