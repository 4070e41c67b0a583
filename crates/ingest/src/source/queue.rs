//! Which queue ingest drains, and what it is declared as. How that is said to RabbitMQ is `amqp`'s.
//!
//! | | arguments |
//! |---|---|
//! | the queue, durable | `x-queue-type`, `x-message-ttl`, `x-dead-letter-exchange`; a quorum queue also `x-delivery-limit` 100, `x-dead-letter-strategy` `at-least-once` and the `x-overflow` `reject-publish` that it needs |
//! | the dead-letter exchange, durable, fanout | none |
//! | the dead-letter queue, durable, bound to it | `x-queue-type`, `x-message-ttl` of a week, `x-max-length-bytes` of 1 GiB |
//!
//! Quorum is the default: it is replicated where there are several nodes, it is drained 2.4 times as fast with
//! `multiple` acks, and it is the only kind that gets rid of a message which ends every connection that it is delivered
//! on. The queue of this system's first version is a classic one without a dead-letter exchange; no arguments make it
//! another, so it is taken as it is (`HERALD_QUEUE_DECLARE=passive`) or drained and deleted first.
//!
//! After a crash of RabbitMQ a quorum queue may hand out what it had not handed out before ahead of what it had: the
//! order of a channel is the order in which RabbitMQ delivers.

use herald_chassis::SecretUrl;

/// How often RabbitMQ delivers a message of a quorum queue that nobody acknowledges, until it dead-letters it: more
/// often than any series of restarts within its TTL, so that only a message that ends the connection gets there.
const DELIVERY_LIMIT: i64 = 100;
/// What the dead-letter queue keeps: a week, and 1 GiB, the oldest going first. Dead letters must not fill a disk.
const DEAD_LETTER_TTL_MS: i64 = 7 * 24 * 3_600_000;
const DEAD_LETTER_BYTES_MAX: i64 = 1 << 30;

/// Which queue, and how it is declared.
#[derive(Clone, Debug)]
pub struct AmqpConfig {
    /// `amqp://user:password@host:port/vhost`, or `amqps`.
    pub url: SecretUrl,
    /// The queue that producers publish to.
    pub queue: String,
    /// What kind of queue to declare.
    pub queue_type: QueueType,
    /// `x-message-ttl` of the queue, milliseconds.
    pub queue_ttl_ms: u64,
    /// Whether to declare anything.
    pub declare: Declare,
    /// The exchange and the queue for dead letters: both have this name.
    pub dead_letter: String,
}

/// `x-queue-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum QueueType {
    /// Replicated, drained more than twice as fast with `multiple` acks, and RabbitMQ itself dead-letters a message
    /// that keeps ending the connection.
    Quorum,
    /// For brokers that hold a queue of the first version of this system.
    Classic,
}

/// Whether queues and exchange are created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Declare {
    /// Create what is missing; what exists must have the same arguments.
    Active,
    /// Take what exists as it is, and wait for what is missing.
    Passive,
}

/// The value of a queue's argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Argument {
    Text(String),
    Number(i64),
}

impl AmqpConfig {
    /// What the queue is declared with.
    pub(crate) fn arguments(&self) -> Vec<(&'static str, Argument)> {
        let ttl_ms = i64::try_from(self.queue_ttl_ms).unwrap_or(i64::MAX);
        let mut arguments = vec![
            ("x-queue-type", self.queue_type.argument()),
            ("x-message-ttl", Argument::Number(ttl_ms)),
            ("x-dead-letter-exchange", Argument::Text(self.dead_letter.clone())),
        ];
        if self.queue_type == QueueType::Quorum {
            arguments.extend([
                ("x-delivery-limit", Argument::Number(DELIVERY_LIMIT)),
                // what expires in the queue must not get lost on its way to the dead-letter queue
                ("x-dead-letter-strategy", Argument::Text("at-least-once".to_owned())),
                ("x-overflow", Argument::Text("reject-publish".to_owned())),
            ]);
        }
        arguments
    }

    /// What the dead-letter queue is declared with.
    pub(crate) fn dead_letter_arguments(&self) -> Vec<(&'static str, Argument)> {
        vec![
            ("x-queue-type", self.queue_type.argument()),
            ("x-message-ttl", Argument::Number(DEAD_LETTER_TTL_MS)),
            ("x-max-length-bytes", Argument::Number(DEAD_LETTER_BYTES_MAX)),
        ]
    }
}

impl QueueType {
    fn argument(self) -> Argument {
        let name = match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
        };
        Argument::Text(name.to_owned())
    }
}
