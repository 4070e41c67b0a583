//! Reads Redis' answers. Each is `None` when the answer is not what the command is documented to give.

use bytes::Bytes;
use herald_wire::Position;
use redis::Value;

use crate::Entry;

/// An integer, also where it comes as text.
pub(super) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::BulkString(digits) => std::str::from_utf8(digits).ok()?.parse().ok(),
        Value::SimpleString(digits) => digits.parse().ok(),
        _ => None,
    }
}

/// What several `MGET` give: a key that is not there stands at the beginning.
pub(super) fn positions(answers: Vec<Value>) -> Option<Vec<Position>> {
    let position = |value: &Value| match value {
        Value::Nil => Some(Position::ZERO),
        value => number(value).map(Position),
    };
    let mut positions = Vec::new();
    for answer in answers {
        let Value::Array(values) = answer else { return None };
        for value in &values {
            positions.push(position(value)?);
        }
    }
    Some(positions)
}

/// A text, plain or as RESP3 marks it.
pub(super) fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// What `XRANGE` gives: `[[id, [field, envelope]], …]`.
pub(super) fn entries(value: Value) -> Option<Vec<Entry>> {
    let Value::Array(entries) = value else { return None };
    entries.into_iter().map(entry).collect()
}

fn entry(value: Value) -> Option<Entry> {
    let Value::Array(mut parts) = value else { return None };
    let (Some(Value::Array(mut fields)), Some(Value::BulkString(id)), None) =
        (parts.pop(), parts.pop(), parts.pop())
    else {
        return None;
    };
    let position = Position::from_stream_id(std::str::from_utf8(&id).ok()?)?;
    let Some(Value::BulkString(envelope)) = fields.pop() else { return None };
    Entry::read(position, Bytes::from(envelope))
}

#[cfg(test)]
mod tests {
    use super::*;
    use herald_wire::envelope::{Place, append_place};

    fn bulk(bytes: &[u8]) -> Value {
        Value::BulkString(bytes.to_vec())
    }

    #[test]
    fn a_log_is_read() {
        let place = Place { position: Position(1_234_567), prev: Position(3) };
        let envelope = append_place(b"x", place);
        let value = Value::Array(vec![Value::Array(vec![
            bulk(b"1234-567"),
            Value::Array(vec![bulk(b"e"), bulk(&envelope)]),
        ])]);
        let entry = Entry { position: place.position, prev: place.prev, envelope };
        assert_eq!(entries(value), Some(vec![entry]));
        assert_eq!(entries(Value::Array(vec![])), Some(vec![]));
    }

    #[test]
    fn positions_are_read_in_their_order() {
        let answers =
            |last: Value| vec![Value::Array(vec![bulk(b"7"), Value::Nil]), Value::Array(vec![last])];
        assert_eq!(positions(answers(bulk(b"9"))), Some(vec![Position(7), Position::ZERO, Position(9)]));
        assert_eq!(positions(vec![]), Some(vec![]));
        for wrong in [answers(bulk(b"x")), answers(Value::Array(vec![])), vec![Value::Nil]] {
            assert_eq!(positions(wrong), None);
        }
    }

    #[test]
    fn what_is_not_a_log_is_not_read() {
        for value in [
            Value::Nil,
            Value::Array(vec![Value::Nil]),
            Value::Array(vec![Value::Array(vec![bulk(b"1-1")])]),
            Value::Array(vec![Value::Array(vec![
                bulk(b"1-1"),
                Value::Array(vec![bulk(b"e"), bulk(b"no place")]),
            ])]),
            Value::Array(vec![Value::Array(vec![
                bulk(b"x"),
                Value::Array(vec![bulk(b"e"), bulk(b"z\x011")]),
            ])]),
        ] {
            assert_eq!(entries(value), None);
        }
    }
}
