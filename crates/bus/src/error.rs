//! Why the bus could not do something. Messages name the server and never the password.

use std::time::Duration;

use redis::RedisError;

/// Why the bus could not do something.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BusError {
    /// The configuration cannot be used.
    #[error("the Redis URL cannot be used: {reason}")]
    Config {
        /// What is wrong with it and what would be right.
        reason: String,
    },
    /// No connection in time. Nothing was done.
    #[error("no connection to Redis at {server} within {after:?}{}: is it up and reachable?", last_error(.source))]
    Unreachable {
        /// Host and port.
        server: String,
        /// How long it was tried.
        after: Duration,
        /// What the last attempt ended with.
        source: Option<RedisError>,
    },
    /// No answer in time. Whether it was done is unknown.
    #[error("Redis at {server} did not answer within {after:?}: whether it was done is unknown")]
    Timeout {
        /// Host and port.
        server: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The connection ended before the answer came. Whether it was done is unknown.
    #[error("the connection to Redis at {server} was lost: whether it was done is unknown: {source}")]
    Lost {
        /// Host and port.
        server: String,
        /// How it ended.
        source: RedisError,
    },
    /// Redis answered with an error. Nothing was done.
    #[error("Redis at {server} refused: {source}")]
    Refused {
        /// Host and port.
        server: String,
        /// Its answer.
        source: RedisError,
    },
    /// Redis answered something else than its documents say, or a key holds what Herald did not write.
    #[error("Redis answered {what}, which is not what Herald wrote: does something else use this prefix?")]
    Reply {
        /// What it was.
        what: String,
    },
    /// The feed has ended.
    #[error("the feed has ended: make a new one")]
    FeedEnded,
}

impl BusError {
    /// Whether what was asked may have been done all the same.
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Lost { .. } | Self::Reply { .. })
    }

    /// A short constant name for metrics.
    pub fn metric_label(&self) -> &'static str {
        match self {
            Self::Config { .. } => "config",
            Self::Unreachable { .. } => "unreachable",
            Self::Timeout { .. } => "timeout",
            Self::Lost { .. } => "lost",
            Self::Refused { .. } => "refused",
            Self::Reply { .. } => "reply",
            Self::FeedEnded => "feed_ended",
        }
    }
}

fn last_error(source: &Option<RedisError>) -> String {
    source.as_ref().map(|error| format!(" ({error})")).unwrap_or_default()
}
