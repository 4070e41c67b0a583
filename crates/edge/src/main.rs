//! The `herald-edge` binary: parses, starts, waits. Everything else is in the library.

use std::process::ExitCode;

use herald_bus::{Bus, RedisConfig};
use herald_chassis::{Binary, Context};
use herald_edge::{Config, Parts};

#[global_allocator]
static ALLOCATOR: herald_chassis::MiMalloc = herald_chassis::MiMalloc;

fn main() -> ExitCode {
    let binary = Binary { name: "herald-edge", version: env!("CARGO_PKG_VERSION") };
    herald_chassis::run(binary, async |config: Config, ctx: Context| {
        let redis = RedisConfig {
            prefix: config.redis_prefix.clone(),
            ..RedisConfig::new(config.redis_url.expose())
        };
        let bus = Bus::redis(redis).await?;
        let listener = herald_chassis::listen("HERALD_LISTEN", config.listen)?;
        tracing::info!(listen = %config.listen, redis = %config.redis_url, "herald-edge serves clients");
        let parts = Parts {
            clients: config.clients,
            registry_url: config.registry_url.map(|url| url.expose().to_owned()),
            advertise: config.advertise,
            bus,
            listener,
            elsewhere: None,
        };
        herald_edge::start(parts, &ctx)?;
        Ok(())
    })
}
