//! What a deployment can set about the bus. Reading flags and environment is the binaries' business.

use std::fmt;
use std::time::Duration;

use herald_wire::Names;

/// How long and how much a log remembers.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Entries a log holds; on Redis up to one stream node (100 by its default) more.
    pub entries_max: usize,
    /// A log that got nothing for this long, and at most a quarter longer, is gone. Older entries of a busy log are
    /// trimmed now and then.
    pub age: Duration,
    /// For how long a `message_id` is remembered.
    pub dedup_window: Duration,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { entries_max: 10_000, age: Duration::from_secs(600), dedup_window: Duration::from_secs(120) }
    }
}

impl LogConfig {
    /// When a log ends without a new entry: it is told so only now and then (`publish.lua`), so a quarter later.
    pub(crate) fn log_ttl(&self) -> Duration {
        self.age.saturating_add(self.age / 4)
    }

    /// How long the last position of a log is remembered, at least as long again as the log.
    pub(crate) fn last_ttl(&self) -> Duration {
        self.log_ttl().saturating_add(self.age)
    }
}

/// How far a feed may run ahead of its reader. The first limit that is reached counts.
#[derive(Clone, Copy, Debug)]
pub struct FeedLimits {
    /// Messages waiting.
    pub messages_max: usize,
    /// Bytes waiting, envelopes and targets.
    pub bytes_max: usize,
}

impl Default for FeedLimits {
    fn default() -> Self {
        Self { messages_max: 65_536, bytes_max: 64 << 20 }
    }
}

/// How to reach Redis.
#[derive(Clone)]
pub struct RedisConfig {
    /// One of `redis://[user:password@]host[:port][/db]`, `rediss://…` (TLS), `unix:///path`,
    /// `redis+sentinel://[user:password@]host:port,host:port/master[/db]` (also `rediss+sentinel`; user, password and
    /// TLS are the data nodes', Sentinels are asked without), `redis+cluster://[user:password@]host:port,host:port`
    /// (also `rediss+cluster`).
    pub url: String,
    /// What every key and channel starts with.
    pub prefix: String,
    /// Retention.
    pub log: LogConfig,
    /// What is not answered within this fails.
    pub response_timeout: Duration,
}

impl RedisConfig {
    /// The defaults with this URL.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            prefix: Names::PREFIX_DEFAULT.to_owned(),
            log: LogConfig::default(),
            response_timeout: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for RedisConfig {
    /// Leaves the URL out: it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("prefix", &self.prefix)
            .field("log", &self.log)
            .field("response_timeout", &self.response_timeout)
            .finish_non_exhaustive()
    }
}
