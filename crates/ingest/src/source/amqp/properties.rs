//! The AMQP properties of a message: what ingest looks at, and what a dead letter gets.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::short;
use crate::plan::{Meta, Refusal, Sent};

/// A message's headers must fit into one frame, ours included: original ones larger than this are left out.
const HEADERS_BYTES_MAX: usize = 64 * 1024;
const PERSISTENT: u8 = 2;

const HEADER_TIMESTAMP_MS: &str = "timestamp_in_ms";
const HEADER_TRACEPARENT: &str = "traceparent";
const HEADER_REASON: &str = "x-herald-reason";
const HEADER_DETAIL: &str = "x-herald-detail";
const HEADER_QUEUE: &str = "x-herald-queue";
const HEADER_EXPIRATION: &str = "x-herald-expiration";
const HEADER_USER_ID: &str = "x-herald-user-id";
const HEADER_LEFT_OUT: &str = "x-herald-headers-left-out";

/// A message's properties, kept whole for the dead-letter queue.
#[derive(Debug)]
pub(crate) struct Properties(pub(super) BasicProperties);

type With = fn(BasicProperties, ShortString) -> BasicProperties;

impl Properties {
    /// What ingest looks at.
    pub(crate) fn meta(&self) -> Meta<'_> {
        let Self(properties) = self;
        let millis = self.header(HEADER_TIMESTAMP_MS).and_then(millis);
        let seconds = *properties.timestamp();
        Meta {
            message_id: properties.message_id().as_ref().map(ShortString::as_str),
            expiration: properties.expiration().as_ref().map(ShortString::as_str),
            sent: millis.map(Sent::Millis).or(seconds.map(Sent::Seconds)),
            traceparent: self.header(HEADER_TRACEPARENT).and_then(text),
        }
    }

    fn header(&self, name: &str) -> Option<&AMQPValue> {
        self.0.headers().as_ref()?.inner().get(name)
    }

    /// The properties of the dead letter: the original's, without what RabbitMQ would act upon once more, and with the
    /// reason.
    pub(super) fn dead(&self, refusal: &Refusal, queue: &str) -> BasicProperties {
        let original = &self.0;
        let mut headers = original.headers().clone().unwrap_or_default();
        if table_bytes(&headers) > HEADERS_BYTES_MAX {
            headers = FieldTable::default();
            headers.insert(short(HEADER_LEFT_OUT), AMQPValue::Boolean(true));
        }
        let mut set = |name: &str, value: &str| {
            headers.insert(short(name), AMQPValue::LongString(value.into()));
        };
        set(HEADER_REASON, refusal.label());
        set(HEADER_DETAIL, &refusal.to_string());
        set(HEADER_QUEUE, queue);
        let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        // it would expire there too
        if let Some(expiration) = original.expiration() {
            set(HEADER_EXPIRATION, expiration.as_str());
        }
        // RabbitMQ closes the channel when it is not the user of this connection
        if let Some(user_id) = original.user_id() {
            set(HEADER_USER_ID, user_id.as_str());
        }
        properties = properties.with_headers(headers);
        let kept: [(&Option<ShortString>, With); 7] = [
            (original.content_type(), BasicProperties::with_content_type),
            (original.content_encoding(), BasicProperties::with_content_encoding),
            (original.correlation_id(), BasicProperties::with_correlation_id),
            (original.reply_to(), BasicProperties::with_reply_to),
            (original.message_id(), BasicProperties::with_message_id),
            (original.kind(), BasicProperties::with_type),
            (original.app_id(), BasicProperties::with_app_id),
        ];
        for (value, with) in kept {
            if let Some(value) = value {
                properties = with(properties, value.clone());
            }
        }
        if let Some(timestamp) = original.timestamp() {
            properties = properties.with_timestamp(*timestamp);
        }
        if let Some(priority) = original.priority() {
            properties = properties.with_priority(*priority);
        }
        properties
    }
}

fn text(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

fn millis(value: &AMQPValue) -> Option<u64> {
    match value {
        AMQPValue::LongLongInt(number) => u64::try_from(*number).ok(),
        AMQPValue::Timestamp(number) => Some(*number),
        value => text(value)?.parse().ok(),
    }
}

/// About how many bytes a table takes in a frame.
fn table_bytes(table: &FieldTable) -> usize {
    table.into_iter().map(|(name, value)| 2 + name.as_str().len() + value_bytes(value)).sum()
}

fn value_bytes(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::LongString(text) => 4 + text.len(),
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.len(),
        AMQPValue::FieldArray(array) => {
            4 + array.as_slice().iter().map(|v| 1 + value_bytes(v)).sum::<usize>()
        }
        AMQPValue::FieldTable(table) => 4 + table_bytes(table),
        _ => 8,
    }
}
