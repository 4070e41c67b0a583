//! Reading `<type>[<attachments>-][<namespace>,][<ack id>][<json>]`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{ACK_DIGITS_MAX, ARGS_MAX, ATTACHMENTS_MAX, Body, MAIN_NAMESPACE, NAMESPACE_BYTES_MAX, Packet};

/// Event names that the reference implementation keeps to itself.
const RESERVED_EVENTS: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// Why a text is not a Socket.IO packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No type, or one that the protocol does not have.
    #[error("a Socket.IO packet starts with no known type: types are 0 to 6")]
    UnknownType,
    /// A binary packet without its count of attachments.
    #[error("a binary Socket.IO packet needs its number of attachments, 1 to {ATTACHMENTS_MAX}, and a dash")]
    BadAttachments,
    /// A namespace that is too long or holds control characters.
    #[error("a Socket.IO namespace is longer than {NAMESPACE_BYTES_MAX} bytes or holds control characters")]
    BadNamespace,
    /// An ack id that is too long.
    #[error("a Socket.IO ack id has more than {ACK_DIGITS_MAX} digits")]
    AckIdTooLong,
    /// An ack of nothing.
    #[error("a Socket.IO ack names no id")]
    AckIdMissing,
    /// JSON that is missing, malformed, or not what this type of packet carries.
    #[error("a Socket.IO packet carries something else than {expected}")]
    BadPayload {
        /// What this type of packet carries.
        expected: &'static str,
    },
    /// An event by a name that means something else.
    #[error("a Socket.IO event has a reserved name: choose another")]
    ReservedEvent,
}

impl<'a> Packet<'a> {
    /// Reads the text of an Engine.IO message.
    ///
    /// # Errors
    /// When it is no Socket.IO packet; the protocol wants the connection closed then.
    pub fn decode(text: &'a str) -> Result<Self, DecodeError> {
        let kind = *text
            .as_bytes()
            .first()
            .filter(|kind| (b'0'..=b'6').contains(kind))
            .ok_or(DecodeError::UnknownType)?;
        let rest = &text[1..];
        let (attachments, rest) = if kind >= b'5' { take_attachments(rest)? } else { (0, rest) };
        let (namespace, rest) = take_namespace(rest)?;
        let (ack, json) = take_ack(rest)?;
        let body = match kind {
            b'0' => Body::Connect(if json.is_empty() { None } else { Some(object(json)?) }),
            b'1' if json.is_empty() => Body::Disconnect,
            b'1' => return Err(DecodeError::BadPayload { expected: "nothing" }),
            b'4' => Body::ConnectError(error_data(json)?),
            b'2' | b'5' => {
                let (name, args) = event(json)?;
                Body::Event { name, args, ack, attachments }
            }
            _ => Body::Ack { id: ack.ok_or(DecodeError::AckIdMissing)?, args: ack_args(json)?, attachments },
        };
        Ok(Self { namespace, body })
    }
}

fn take_attachments(text: &str) -> Result<(u8, &str), DecodeError> {
    let (count, rest) = text.split_once('-').ok_or(DecodeError::BadAttachments)?;
    let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
    match count.parse() {
        Ok(count @ 1..=ATTACHMENTS_MAX) if digits => Ok((count, rest)),
        _ => Err(DecodeError::BadAttachments),
    }
}

fn take_namespace(text: &str) -> Result<(&str, &str), DecodeError> {
    if !text.starts_with('/') {
        return Ok((MAIN_NAMESPACE, text));
    }
    let (namespace, rest) = text.split_once(',').unwrap_or((text, ""));
    if namespace.len() > NAMESPACE_BYTES_MAX || namespace.chars().any(char::is_control) {
        return Err(DecodeError::BadNamespace);
    }
    Ok((namespace, rest))
}

fn take_ack(text: &str) -> Result<(Option<u64>, &str), DecodeError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    match text.split_at(digits) {
        ("", rest) => Ok((None, rest)),
        (id, rest) if digits <= ACK_DIGITS_MAX => {
            Ok((Some(id.parse().map_err(|_| DecodeError::AckIdTooLong)?), rest))
        }
        _ => Err(DecodeError::AckIdTooLong),
    }
}

fn object(json: &str) -> Result<&RawValue, DecodeError> {
    raw(json)
        .filter(|raw| raw.get().starts_with('{'))
        .ok_or(DecodeError::BadPayload { expected: "a JSON object, or nothing" })
}

fn error_data(json: &str) -> Result<&RawValue, DecodeError> {
    raw(json)
        .filter(|raw| raw.get().starts_with(['{', '"']))
        .ok_or(DecodeError::BadPayload { expected: "a JSON object or string" })
}

fn ack_args(json: &str) -> Result<Vec<&RawValue>, DecodeError> {
    array(json).ok_or(DecodeError::BadPayload { expected: "a JSON array of few enough arguments" })
}

fn event(json: &str) -> Result<(Cow<'_, str>, Vec<&RawValue>), DecodeError> {
    let bad =
        DecodeError::BadPayload { expected: "a JSON array of the event's name and few enough arguments" };
    let mut args = array(json).filter(|args| !args.is_empty()).ok_or(bad)?;
    let name = event_name(args.remove(0)).ok_or(bad)?;
    if RESERVED_EVENTS.contains(&&*name) { Err(DecodeError::ReservedEvent) } else { Ok((name, args)) }
}

fn event_name(raw: &RawValue) -> Option<Cow<'_, str>> {
    let json = raw.get();
    match json.as_bytes().first()? {
        // only a string without escapes can be borrowed
        b'"' => serde_json::from_str(json)
            .map(Cow::Borrowed)
            .or_else(|_| serde_json::from_str(json).map(Cow::Owned))
            .ok(),
        b'-' | b'0'..=b'9' => Some(Cow::Borrowed(json)),
        _ => None,
    }
}

fn raw(json: &str) -> Option<&RawValue> {
    serde_json::from_str(json).ok()
}

/// The elements of a JSON array of at most [`ARGS_MAX`].
fn array(json: &str) -> Option<Vec<&RawValue>> {
    serde_json::from_str(json).ok().map(|Array(elements)| elements)
}

struct Array<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Array<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ArrayVisitor)
    }
}

struct ArrayVisitor;

impl<'de> Visitor<'de> for ArrayVisitor {
    type Value = Array<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of at most {ARGS_MAX} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element()? {
            if elements.len() == ARGS_MAX {
                return Err(A::Error::invalid_length(ARGS_MAX + 1, &self));
            }
            elements.push(element);
        }
        Ok(Array(elements))
    }
}
