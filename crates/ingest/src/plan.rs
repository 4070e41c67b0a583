//! What to do with one message: bytes and their properties in, a decision out. No I/O, no clock, no randomness of its
//! own, and no idea of where the message came from.

use std::sync::Arc;

use bytes::Bytes;
use herald_bus::Publication;
use herald_wire::{Envelope, Limits, Message, Rejection, Target};

const MICROS_PER_MILLI: u64 = 1_000;
/// A producer's clock may be this far ahead of ours and still be believed.
const AHEAD_MS_MAX: u64 = 60_000;
/// A message may be this old and its timestamp still be believed; most that are older are milliseconds taken for
/// seconds, or a clock that was never set.
const AGE_MS_MAX: u64 = 7 * 24 * 3_600_000;
/// The longest time to live: a year. RabbitMQ's own limit is lower.
const EXPIRATION_MS_MAX: u64 = 365 * 24 * 3_600_000;
/// What an error repeats of a value that it complains about, in bytes.
const SHOWN_BYTES_MAX: usize = 40;

/// The same for every message.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Bounds on what a message may name.
    pub limits: Limits,
    /// Milliseconds for which a message is worth delivering when it does not say so itself: the queue's own TTL.
    pub ttl_ms: u64,
}

/// What travels beside the body, whatever it travelled in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meta<'a> {
    /// The producer's id; the empty one counts as none.
    pub message_id: Option<&'a str>,
    /// Time to live in milliseconds, in decimal.
    pub expiration: Option<&'a str>,
    /// When the producer says it sent the message.
    pub sent: Option<Sent>,
    /// W3C trace context; ignored unless it is well formed, as its specification asks for.
    pub traceparent: Option<&'a str>,
}

/// A producer's clock, since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// AMQP's `timestamp`.
    Seconds(u64),
    /// The `timestamp_in_ms` header that RabbitMQ's message-timestamp plugin sets.
    Millis(u64),
}

/// When, and something that no other call gets.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Wall clock, microseconds since the Unix epoch.
    pub now_us: u64,
    /// Names the message where its producer did not.
    pub random: u128,
}

/// A message that can be published.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Whom it is for, each once.
    pub targets: Vec<Target>,
    /// What to publish to each of them, without the time of publishing.
    pub envelope: Envelope,
    /// What duplicates are told by: the producer's `message_id`; without one, a reliable message gets a name for this
    /// delivery, so that it can be published again when the answer got lost. A volatile one does not: it costs Redis
    /// more to remember than to send.
    pub dedup_id: Option<Arc<str>>,
    /// Milliseconds since the Unix epoch from which on publishing it is pointless: never later than the rules' TTL,
    /// so that nothing waits for ever.
    pub give_up_at_ms: u64,
}

/// Why a message is not published. It is never requeued: it would be refused again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// What the body says, or does not say.
    #[error(transparent)]
    Body(#[from] Rejection),
    /// The id is too long to be remembered.
    #[error("the message_id is {actual} bytes long; at most {max} are allowed")]
    MessageId {
        /// Its length in bytes.
        actual: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The time to live cannot be read.
    #[error("the expiration is {0:?}; it must be a whole number of milliseconds, at most a year")]
    Expiration(String),
    /// Its time was over before it could be published.
    #[error("the message expired {late_ms} ms before it could be published")]
    Expired {
        /// By how much.
        late_ms: u64,
    },
}

impl Refusal {
    /// For metrics, the header of a dead-lettered message and the HTTP answer.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Body(rejection) => rejection.label(),
            Self::MessageId { .. } => "invalid_message_id",
            Self::Expiration(_) => "invalid_expiration",
            Self::Expired { .. } => "expired",
        }
    }
}

impl Plan {
    /// Decides what becomes of a message.
    ///
    /// Its expiration runs from when it was sent, if the producer said so and that is believable, else from now:
    /// RabbitMQ counts from its arrival in the queue, which it does not tell. AMQP's `timestamp` is in whole seconds,
    /// so the end of that second counts. The rules' TTL runs from now: its part before is RabbitMQ's to apply.
    ///
    /// # Errors
    /// Why it must not be published.
    pub fn new(body: &Bytes, meta: &Meta<'_>, rules: &Rules, moment: Moment) -> Result<Self, Refusal> {
        let now_ms = moment.now_us / MICROS_PER_MILLI;
        let message_id = message_id(meta, rules)?;
        let ttl_ms = meta.expiration.map(expiration_ms).transpose()?;
        let message = Message::parse(body, &rules.limits)?;
        let sent = meta.sent.and_then(|sent| sent.believed(now_ms));
        let start_ms = sent.map_or(now_ms, |(_, until_ms)| until_ms.min(now_ms));
        let waits_until_ms = now_ms + rules.ttl_ms;
        let give_up_at_ms = ttl_ms.map_or(waits_until_ms, |ttl_ms| waits_until_ms.min(start_ms + ttl_ms));
        if give_up_at_ms <= now_ms {
            return Err(Refusal::Expired { late_ms: now_ms - give_up_at_ms });
        }
        let envelope = Envelope {
            body: message.body,
            reliable: message.reliable,
            message_id: message_id.unwrap_or_default().to_owned(),
            sent_at_us: sent.map_or(0, |(from_ms, _)| from_ms * MICROS_PER_MILLI),
            received_at_us: moment.now_us,
            // a volatile message without a time to live ends with the edge's outbox
            expires_at_ms: if message.reliable || ttl_ms.is_some() { give_up_at_ms } else { 0 },
            copies_id: if message.targets.len() > 1 { copies_id(message_id, moment.random) } else { 0 },
            traceparent: meta.traceparent.filter(|text| is_traceparent(text)).unwrap_or_default().to_owned(),
            ..Envelope::default()
        };
        let dedup_id = match message_id {
            Some(id) => Some(id.into()),
            None => envelope.reliable.then(|| format!("{:032x}", moment.random).into()),
        };
        Ok(Self { targets: message.targets, envelope, dedup_id, give_up_at_ms })
    }

    /// The encoded envelope, published now. All targets get the same bytes.
    pub fn encode(&mut self, now_us: u64) -> Bytes {
        self.envelope.published_at_us = now_us;
        self.envelope.to_bytes()
    }

    /// What to hand to the bus for one of its targets.
    pub fn publication(&self, target: usize, envelope: Bytes) -> Option<Publication> {
        let target = self.targets.get(target)?.clone();
        let message_id = self.dedup_id.clone();
        Some(Publication { target, envelope, reliable: self.envelope.reliable, message_id })
    }

    /// Whether its time is over.
    pub fn expired(&self, now_ms: u64) -> Option<Refusal> {
        let late_ms = now_ms.checked_sub(self.give_up_at_ms)?;
        Some(Refusal::Expired { late_ms })
    }
}

impl Sent {
    /// The first and the last millisecond it can mean, unless it is too far from now to be true.
    fn believed(self, now_ms: u64) -> Option<(u64, u64)> {
        let (from_ms, until_ms) = match self {
            Self::Seconds(seconds) => {
                let from_ms = seconds.checked_mul(1_000)?;
                (from_ms, from_ms.checked_add(999)?)
            }
            Self::Millis(millis) => (millis, millis),
        };
        let believable = now_ms.saturating_sub(AGE_MS_MAX)..=now_ms + AHEAD_MS_MAX;
        believable.contains(&from_ms).then_some((from_ms, until_ms))
    }
}

fn message_id<'a>(meta: &Meta<'a>, rules: &Rules) -> Result<Option<&'a str>, Refusal> {
    let max = rules.limits.message_id_bytes_max;
    match meta.message_id.filter(|id| !id.is_empty()) {
        Some(id) if id.len() > max => Err(Refusal::MessageId { actual: id.len(), max }),
        id => Ok(id),
    }
}

fn expiration_ms(text: &str) -> Result<u64, Refusal> {
    // `parse` takes a sign, which RabbitMQ does not
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(ms) if digits && ms <= EXPIRATION_MS_MAX => Ok(ms),
        _ => Err(Refusal::Expiration(text[..text.floor_char_boundary(SHOWN_BYTES_MAX)].to_owned())),
    }
}

/// Never 0, and the same when a message that has an id comes again.
fn copies_id(message_id: Option<&str>, random: u128) -> u64 {
    // FNV-1a (draft-eastlake-fnv): must not change from one version of ingest to the next
    let hash = |id: &str| {
        id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    };
    message_id.map_or(random as u64, hash).max(1)
}

/// <https://www.w3.org/TR/trace-context/#traceparent-header>: version 00, or a later one that begins like it.
fn is_traceparent(text: &str) -> bool {
    let bytes = text.as_bytes();
    let hex = |from: usize, to: usize| {
        bytes.get(from..to).is_some_and(|part| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    };
    let zero =
        |from: usize, to: usize| bytes.get(from..to).is_some_and(|part| part.iter().all(|b| *b == b'0'));
    bytes.len() == 55
        && bytes[2] == b'-'
        && bytes[35] == b'-'
        && bytes[52] == b'-'
        && hex(0, 2)
        && hex(3, 35)
        && hex(36, 52)
        && hex(53, 55)
        && &bytes[..2] != b"ff"
        && !zero(3, 35)
        && !zero(36, 52)
}

#[cfg(test)]
mod tests;
