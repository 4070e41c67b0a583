//! The registry's settings.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use herald_chassis::config::{millis, number, text, url};
use herald_chassis::{Common, SecretUrl, Settings};
use herald_wire::Limits;

use crate::Options;
use crate::store::Store;
use crate::store::redis::{ConnectError, RedisStore};

/// Tracks which edge owns each socketId, in Redis, and answers by gRPC
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "herald-registry", version)]
pub struct Config {
    /// Where gRPC is served
    #[arg(long, env = "HERALD_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:50051")]
    pub listen: SocketAddr,
    /// Redis, where it is kept: redis://[user:password@]host:port[/db], or redis+cluster://host:port,…
    #[arg(long, env = "HERALD_REDIS_URL", value_name = "URL", default_value = "redis://127.0.0.1:6379",
          value_parser = url(&["redis", "redis+cluster"]))]
    pub redis_url: SecretUrl,
    /// What every key and channel on Redis starts with
    #[arg(long, env = "HERALD_REDIS_PREFIX", value_name = "TEXT", default_value = "herald", value_parser = text(64))]
    pub redis_prefix: String,
    /// How long an edge's word stands without a heartbeat, in milliseconds
    #[arg(long = "lease-ms", env = "HERALD_LEASE_MS", value_name = "MS", default_value = "10000",
          value_parser = millis(300..=600_000))]
    pub lease: Duration,
    /// The longest socketId, in bytes
    #[arg(long, env = "HERALD_ID_BYTES_MAX", value_name = "BYTES", default_value = "256",
          value_parser = number(1_usize..=4_096))]
    pub id_bytes_max: usize,
    /// What every binary has
    #[command(flatten)]
    pub common: Common,
}

impl Settings for Config {
    fn common(&self) -> &Common {
        &self.common
    }
}

impl Config {
    /// How the service behaves.
    pub fn options(&self) -> Options {
        Options { lease: self.lease, limits: Limits { id_bytes_max: self.id_bytes_max, ..Limits::DEFAULT } }
    }

    /// Where the directory lives.
    ///
    /// # Errors
    /// When Redis cannot be used with these settings; it need not be up yet.
    pub fn store(&self) -> Result<Store, ConnectError> {
        RedisStore::new(self.redis_url.expose(), &self.redis_prefix, self.lease)
            .map(|store| Store::Redis(Arc::new(store)))
    }
}
