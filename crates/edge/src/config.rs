//! What an edge can be told. Every limit of the public contract is a setting; the others are named constants where they
//! bite.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use herald_chassis::config::{bytes, millis, number, text, url};
use herald_chassis::{Common, Problems, SecretUrl, Settings};
use herald_wire::Names;

/// Settings of `herald-edge`.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "herald-edge",
    version,
    about = "Holds the clients: Socket.IO, WebSocket and Server-Sent Events"
)]
pub struct Config {
    /// Where clients connect
    #[arg(long, env = "HERALD_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Redis, which carries the messages: redis://host:port, rediss (TLS), redis+sentinel://host:port,…/master or
    /// redis+cluster://host:port,…
    #[arg(long, env = "HERALD_REDIS_URL", value_name = "URL", default_value = "redis://127.0.0.1:6379",
          value_parser = url(&REDIS_SCHEMES))]
    pub redis_url: SecretUrl,
    /// What every key and channel on Redis starts with
    #[arg(long, env = "HERALD_REDIS_PREFIX", value_name = "TEXT", default_value = Names::PREFIX_DEFAULT,
          value_parser = text(64))]
    pub redis_prefix: String,
    /// The registry that is told which socketIds are held here; without one, a socketId claimed on two edges stays on both
    #[arg(long, env = "HERALD_REGISTRY_URL", value_name = "URL", value_parser = url(&["http"]))]
    pub registry_url: Option<SecretUrl>,
    /// How the registry names this edge to those who ask where a client is
    #[arg(long, env = "HERALD_ADVERTISE", value_name = "TEXT", value_parser = text(256))]
    pub advertise: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)] // clap would show a comment as help
    pub clients: ClientConfig,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

const REDIS_SCHEMES: [&str; 7] =
    ["redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"];

/// What clients may do, and how they are kept.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Clients")]
pub struct ClientConfig {
    /// From one ping to the next, in milliseconds
    #[arg(long = "ping-interval-ms", env = "HERALD_PING_INTERVAL_MS", value_name = "MS", default_value = "25000",
          value_parser = millis(100..=3_600_000))]
    pub ping_interval: Duration,
    /// How long a client has to answer a ping, in milliseconds
    #[arg(long = "ping-timeout-ms", env = "HERALD_PING_TIMEOUT_MS", value_name = "MS", default_value = "20000",
          value_parser = millis(100..=3_600_000))]
    pub ping_timeout: Duration,
    /// How long a client has to CONNECT (Socket.IO) once its transport is open, in milliseconds
    #[arg(long = "connect-timeout-ms", env = "HERALD_CONNECT_TIMEOUT_MS", value_name = "MS", default_value = "45000",
          value_parser = millis(100..=3_600_000))]
    pub connect_timeout: Duration,
    /// The most bytes one message or payload from a client may have
    #[arg(long, env = "HERALD_MAX_PAYLOAD_BYTES", value_name = "BYTES", default_value = "1000000",
          value_parser = bytes(1_024..=64 << 20))]
    pub max_payload_bytes: usize,
    /// The most connections of clients at one time
    #[arg(long, env = "HERALD_MAX_CONNECTIONS", value_name = "COUNT", default_value = "100000",
          value_parser = number(1..=10_000_000usize))]
    pub max_connections: usize,
    /// The most groups one client may be in
    #[arg(long, env = "HERALD_MAX_GROUPS", value_name = "COUNT", default_value = "100",
          value_parser = number(1..=10_000usize))]
    pub max_groups: usize,
    /// The most bytes a socketId or a group may have
    #[arg(long = "id-bytes-max", env = "HERALD_ID_BYTES_MAX", value_name = "BYTES", default_value = "256",
          value_parser = number(1..=4_096usize))]
    pub max_id_bytes: usize,
    /// Messages that may wait for one client before it lags
    #[arg(long, env = "HERALD_OUTBOX_FRAMES", value_name = "COUNT", default_value = "1024",
          value_parser = number(8..=1_000_000usize))]
    pub outbox_frames: usize,
    /// Bytes that may wait for one client before it lags
    #[arg(long, env = "HERALD_OUTBOX_BYTES", value_name = "BYTES", default_value = "262144",
          value_parser = bytes(4_096..=1 << 30))]
    pub outbox_bytes: usize,
    /// How long a session can be resumed after its connection ended, in milliseconds
    #[arg(long = "session-retention-ms", env = "HERALD_SESSION_RETENTION_MS", value_name = "MS",
          default_value = "600000", value_parser = millis(1_000..=604_800_000))]
    pub session_retention: Duration,
    /// Origins that browsers may connect from, separated by commas; `*` is any
    #[arg(
        long,
        env = "HERALD_ALLOWED_ORIGINS",
        value_name = "ORIGINS",
        default_value = "*",
        value_delimiter = ','
    )]
    pub allowed_origins: Vec<String>,
    /// Tasks among which the connections are divided; 0 is one for each core
    #[arg(long, env = "HERALD_SHARDS", value_name = "COUNT", default_value = "0", value_parser = number(0..=256usize))]
    pub shards: usize,
    /// Over how long a drain spreads the ends of connections after SIGTERM, in milliseconds
    #[arg(long = "drain-ms", env = "HERALD_DRAIN_MS", value_name = "MS", default_value = "5000",
          value_parser = millis(0..=3_600_000))]
    pub drain: Duration,
}

impl ClientConfig {
    /// Adds what is wrong with several settings together.
    pub fn validate(&self, common: &Common, problems: &mut Problems) {
        problems.check(
            self.drain <= common.shutdown_grace,
            "HERALD_DRAIN_MS",
            format_args!(
                "must not be more than HERALD_SHUTDOWN_GRACE_MS, {} ms",
                common.shutdown_grace.as_millis()
            ),
        );
        for origin in self.allowed_origins.iter().filter(|origin| *origin != "*") {
            problems.check(
                origin.starts_with("http://") || origin.starts_with("https://"),
                "HERALD_ALLOWED_ORIGINS",
                format_args!("`{origin}` is neither `*` nor an origin such as https://example.org"),
            );
        }
    }

    /// How many shards, once the cores are counted.
    pub(crate) fn shards(&self) -> usize {
        match self.shards {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            given => given,
        }
    }
}

impl Settings for Config {
    fn common(&self) -> &Common {
        &self.common
    }

    fn validate(&self, problems: &mut Problems) {
        self.clients.validate(&self.common, problems);
    }
}
