//! Flags and environment, and what they come to. Nothing else reads either.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use herald_bus::{LogConfig, RedisConfig};
use herald_chassis::config::{bytes, millis, number, text, url};
use herald_chassis::{Common, Problems, Secret, SecretUrl};
use herald_wire::{Limits, Names};

use crate::plan::Rules;
use crate::source::amqp;
use crate::source::http::{BODIES_BYTES_MAX, HttpConfig};
use crate::source::queue::{AmqpConfig, Declare, QueueType};
use crate::{Amqp, Config, FlowConfig};

/// AMQP's own limit for names.
const NAME_BYTES_MAX: usize = 255;
/// One pipeline of the bus.
const BATCH_MAX_MAX: usize = 1_000;
/// AMQP's prefetch is 16 bits wide.
const WINDOW_MAX: usize = u16::MAX as usize;

/// The settings of `herald-ingest`.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "herald-ingest", version, about = "Drains RabbitMQ and HTTP into Redis")]
pub struct Settings {
    /// Where POST /publish is served
    #[arg(long, env = "HERALD_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// RabbitMQ: amqp://user:password@host:port/vhost, or amqps
    #[arg(long, env = "HERALD_AMQP_URL", value_name = "URL", value_parser = url(&["amqp", "amqps"]))]
    pub amqp_url: SecretUrl,
    /// Redis: redis://host:port, rediss (TLS), redis+sentinel://host:port,…/master or redis+cluster://host:port,…
    #[arg(long, env = "HERALD_REDIS_URL", value_name = "URL", value_parser = url(REDIS_SCHEMES))]
    pub redis_url: SecretUrl,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub queue: QueueSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub intake: IntakeSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub flow: FlowSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub redis: RedisSettings,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

const REDIS_SCHEMES: &[&str] =
    &["redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"];

/// The queue, and how it is drained.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Queue")]
pub struct QueueSettings {
    /// The queue that producers publish to
    #[arg(long, env = "HERALD_QUEUE", value_name = "NAME", default_value = "herald.messages",
          value_parser = text(NAME_BYTES_MAX))]
    pub queue: String,
    /// What kind of queue to declare; an existing one cannot change its kind
    #[arg(long, env = "HERALD_QUEUE_TYPE", value_name = "TYPE", default_value = "quorum")]
    pub queue_type: QueueType,
    /// After how many milliseconds in the queue a message goes to the dead-letter queue
    #[arg(long = "queue-ttl-ms", env = "HERALD_QUEUE_TTL_MS", value_name = "MS", default_value = "600000",
          value_parser = millis(1..=365 * 24 * 3_600_000))]
    pub queue_ttl: Duration,
    /// Whether to create queues and exchange (active), or take what exists as it is (passive)
    #[arg(long, env = "HERALD_QUEUE_DECLARE", value_name = "HOW", default_value = "active")]
    pub queue_declare: Declare,
    /// The name of both the exchange and the queue for messages that cannot be published
    #[arg(long, env = "HERALD_DEAD_LETTER", value_name = "NAME", default_value = "herald.dead-letter",
          value_parser = text(NAME_BYTES_MAX))]
    pub dead_letter: String,
    /// How many messages RabbitMQ may hand over before the first of them is acknowledged; under pressure it is fewer
    #[arg(long, env = "HERALD_WINDOW", value_name = "COUNT", default_value = "2000",
          value_parser = number(1..=WINDOW_MAX))]
    pub window: usize,
    /// The most publications handed to Redis at once
    #[arg(long, env = "HERALD_BATCH_MAX", value_name = "COUNT", default_value = "256",
          value_parser = number(1..=BATCH_MAX_MAX))]
    pub batch_max: usize,
}

/// What a message and a request may be; `herald` takes these too.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Messages")]
pub struct IntakeSettings {
    /// The longest socketId or group, in bytes
    #[arg(long, env = "HERALD_ID_BYTES_MAX", value_name = "BYTES", default_value = "256",
          value_parser = bytes(1..=4_096))]
    pub id_bytes_max: usize,
    /// The most targets one message may name
    #[arg(long, env = "HERALD_TARGETS_MAX", value_name = "COUNT", default_value = "1000",
          value_parser = number(1..=100_000_usize))]
    pub targets_max: usize,
    /// The largest message
    #[arg(long, env = "HERALD_MESSAGE_BYTES_MAX", value_name = "BYTES", default_value = "1000000",
          value_parser = bytes(64..=BODIES_BYTES_MAX))]
    pub message_bytes_max: usize,
    /// The longest message_id or Idempotency-Key, in bytes
    #[arg(long, env = "HERALD_MESSAGE_ID_BYTES_MAX", value_name = "BYTES", default_value = "256",
          value_parser = bytes(32..=4_096))]
    pub message_id_bytes_max: usize,
    /// The largest body of POST /publish
    #[arg(long, env = "HERALD_HTTP_BODY_BYTES_MAX", value_name = "BYTES", default_value = "5000000",
          value_parser = bytes(64..=BODIES_BYTES_MAX))]
    pub http_body_bytes_max: usize,
    /// The most messages in one POST /publish
    #[arg(long, env = "HERALD_HTTP_MESSAGES_MAX", value_name = "COUNT", default_value = "1000",
          value_parser = number(1..=100_000_usize))]
    pub http_messages_max: usize,
    /// The most messages over HTTP in flight; further requests are answered 503
    #[arg(long, env = "HERALD_HTTP_WINDOW", value_name = "COUNT", default_value = "4000",
          value_parser = number(1..=1_000_000_usize))]
    pub http_window: usize,
    /// The most HTTP connections; further ones wait
    #[arg(long, env = "HERALD_HTTP_CONNECTIONS_MAX", value_name = "COUNT", default_value = "1000",
          value_parser = number(1..=100_000_usize))]
    pub http_connections_max: usize,
    /// What POST /publish must bring as Authorization: Bearer; without it anybody who can connect may publish
    #[arg(long, env = "HERALD_PUBLISH_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub publish_token: Option<Secret>,
}

/// How overload is kept in RabbitMQ.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Flow control")]
pub struct FlowSettings {
    /// The registry that says how the edges are; without one, only Redis' own pressure slows ingest down
    #[arg(long, env = "HERALD_REGISTRY_URL", value_name = "URL", value_parser = url(&["http"]))]
    pub registry_url: Option<SecretUrl>,
    /// How late the worst edge may be, in milliseconds, before fewer messages pass
    #[arg(long = "lateness-target-ms", env = "HERALD_LATENESS_TARGET_MS", value_name = "MS", default_value = "200",
          value_parser = millis(10..=10_000))]
    pub lateness_target: Duration,
}

/// What is kept on Redis, and how it is reached.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Redis")]
pub struct RedisSettings {
    /// What every key and channel starts with; the same for all services
    #[arg(long, env = "HERALD_REDIS_PREFIX", value_name = "PREFIX", default_value = Names::PREFIX_DEFAULT,
          value_parser = text(64))]
    pub redis_prefix: String,
    /// After how long without an answer a command has failed, in milliseconds
    #[arg(long = "redis-timeout-ms", env = "HERALD_REDIS_TIMEOUT_MS", value_name = "MS", default_value = "5000",
          value_parser = millis(10..=60_000))]
    pub redis_timeout: Duration,
    /// How many reliable messages the log of a target keeps
    #[arg(long, env = "HERALD_LOG_ENTRIES_MAX", value_name = "COUNT", default_value = "10000",
          value_parser = number(1..=10_000_000_usize))]
    pub log_entries_max: usize,
    /// For how long, in milliseconds
    #[arg(long = "log-age-ms", env = "HERALD_LOG_AGE_MS", value_name = "MS", default_value = "600000",
          value_parser = millis(1_000..=30 * 24 * 3_600_000))]
    pub log_age: Duration,
    /// For how long a message_id is remembered, in milliseconds
    #[arg(long = "dedup-window-ms", env = "HERALD_DEDUP_WINDOW_MS", value_name = "MS", default_value = "120000",
          value_parser = millis(1_000..=24 * 3_600_000))]
    pub dedup_window: Duration,
}

impl herald_chassis::Settings for Settings {
    fn common(&self) -> &Common {
        &self.common
    }

    fn validate(&self, problems: &mut Problems) {
        if let Err(error) = amqp::parse_url(&self.amqp_url) {
            problems.add("HERALD_AMQP_URL", error);
        }
        let differs = self.queue.dead_letter != self.queue.queue;
        problems.check(
            differs,
            "HERALD_DEAD_LETTER",
            "must not be the queue itself: dead letters would go round",
        );
    }
}

impl Settings {
    /// What ingest is run with.
    pub fn config(&self) -> Config {
        let QueueSettings { queue, queue_type, queue_ttl, queue_declare, dead_letter, window, batch_max } =
            self.queue.clone();
        let queue_ttl_ms = queue_ttl.as_millis() as u64;
        let queue = AmqpConfig {
            url: self.amqp_url.clone(),
            queue,
            queue_type,
            queue_ttl_ms,
            declare: queue_declare,
            dead_letter,
        };
        Config {
            rules: self.intake.rules(queue_ttl_ms),
            http: self.intake.http(),
            amqp: Some(Amqp { queue, prefetch: window, batch_max }),
            flow: FlowConfig {
                target: self.flow.lateness_target,
                registry_url: self.flow.registry_url.clone(),
            },
        }
    }

    /// How the bus is reached.
    pub fn redis(&self) -> RedisConfig {
        let redis = &self.redis;
        RedisConfig {
            url: self.redis_url.expose().to_owned(),
            prefix: redis.redis_prefix.clone(),
            log: LogConfig {
                entries_max: redis.log_entries_max,
                age: redis.log_age,
                dedup_window: redis.dedup_window,
            },
            response_timeout: redis.redis_timeout,
        }
    }
}

impl IntakeSettings {
    /// The rules for messages.
    pub fn rules(&self, ttl_ms: u64) -> Rules {
        let limits = Limits {
            id_bytes_max: self.id_bytes_max,
            targets_max: self.targets_max,
            message_bytes_max: self.message_bytes_max,
            message_id_bytes_max: self.message_id_bytes_max,
        };
        Rules { limits, ttl_ms }
    }

    /// The bounds of the HTTP source.
    pub fn http(&self) -> HttpConfig {
        HttpConfig {
            body_bytes_max: self.http_body_bytes_max,
            messages_max: self.http_messages_max,
            window: self.http_window,
            connections_max: self.http_connections_max,
            token: self.publish_token.clone(),
        }
    }
}
