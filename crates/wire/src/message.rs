//! What a producer puts on the queue or posts: JSON in, targets and the client's JSON out.
//!
//! The body is read once, without building a tree: only the fields that steer delivery are looked at, everything else
//! is handed on byte for byte. Metadata that travels beside the body (AMQP properties) is not known here.

use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::Limits;
use crate::target::{Target, TargetError};

/// A producer's message, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whom it is for, each once, in the order named: socketIds, then groups.
    pub targets: Vec<Target>,
    /// `isVolatile: false`: must not be lost.
    pub reliable: bool,
    /// What the client gets: the producer's object with `data` decoded, on one line.
    pub body: Bytes,
}

/// Why a message cannot be delivered to anybody. It is never requeued: it would be refused again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Larger than the limit.
    #[error("the message is {actual} bytes long; at most {max} are allowed")]
    TooLarge {
        /// Its length in bytes.
        actual: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// Not JSON, or a field that steers delivery has the wrong type.
    #[error("not a message: {0}")]
    Malformed(String),
    /// Neither `socketSessionId` nor `socketGroupFlag` names anybody.
    #[error("the message names no target: set socketSessionId or socketGroupFlag")]
    NoTarget,
    /// More targets than the limit.
    #[error("the message names {actual} targets; at most {max} are allowed")]
    TooManyTargets {
        /// How many it names.
        actual: usize,
        /// The limit.
        max: usize,
    },
    /// A target that can name nobody.
    #[error("a target is wrong: {0}")]
    Target(#[from] TargetError),
}

impl Rejection {
    /// For metrics and for the header of a dead-lettered message.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Malformed(_) => "malformed",
            Self::NoTarget => "no_target",
            Self::TooManyTargets { .. } => "too_many_targets",
            Self::Target(_) => "invalid_target",
        }
    }
}

impl Message {
    /// Reads a message as it came from the queue or over HTTP.
    pub fn parse(body: &Bytes, limits: &Limits) -> Result<Self, Rejection> {
        if body.len() > limits.message_bytes_max {
            return Err(Rejection::TooLarge { actual: body.len(), max: limits.message_bytes_max });
        }
        let text = std::str::from_utf8(body).map_err(|e| Rejection::Malformed(format!("not UTF-8: {e}")))?;
        let fields: Fields<'_> =
            serde_json::from_str(text).map_err(|e| Rejection::Malformed(e.to_string()))?;
        Ok(Self {
            targets: fields.targets(limits)?,
            reliable: fields.is_volatile == Some(false),
            body: client_json(body, text, fields.data),
        })
    }
}

/// The fields that steer delivery.
#[derive(Default)]
struct Fields<'a> {
    socket_ids: Option<OneOrMany>,
    groups: Option<OneOrMany>,
    is_volatile: Option<bool>,
    data: Option<&'a RawValue>,
}

impl Fields<'_> {
    fn targets(&self, limits: &Limits) -> Result<Vec<Target>, Rejection> {
        let names = |field: &Option<OneOrMany>| field.as_ref().map_or(0, |names| names.0.len());
        let actual = names(&self.socket_ids) + names(&self.groups);
        if actual == 0 {
            return Err(Rejection::NoTarget);
        }
        if actual > limits.targets_max {
            return Err(Rejection::TooManyTargets { actual, max: limits.targets_max });
        }
        let mut targets = Vec::with_capacity(actual);
        for id in self.socket_ids.iter().flat_map(|ids| &ids.0) {
            targets.push(Target::socket(id, limits.id_bytes_max)?);
        }
        for group in self.groups.iter().flat_map(|groups| &groups.0) {
            targets.push(Target::group(group, limits.id_bytes_max)?);
        }
        if targets.len() > 1 {
            let mut seen = std::collections::HashSet::with_capacity(targets.len());
            targets.retain(|target| seen.insert(target.clone()));
        }
        Ok(targets)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(key) = map.next_key::<Key>()? {
            match key {
                Key::SocketSessionId => set(&mut fields.socket_ids, "socketSessionId", map.next_value()?)?,
                Key::SocketGroupFlag => set(&mut fields.groups, "socketGroupFlag", map.next_value()?)?,
                Key::IsVolatile => set(&mut fields.is_volatile, "isVolatile", map.next_value()?)?,
                Key::Data => set(&mut fields.data, "data", Some(map.next_value()?))?,
                Key::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(fields)
    }
}

/// `null` counts as absent; a field given twice is ambiguous.
fn set<T, E: serde::de::Error>(field: &mut Option<T>, name: &'static str, value: Option<T>) -> Result<(), E> {
    if field.is_some() {
        return Err(E::duplicate_field(name));
    }
    *field = value;
    Ok(())
}

#[derive(Deserialize)]
#[serde(field_identifier)]
enum Key {
    #[serde(rename = "socketSessionId")]
    SocketSessionId,
    #[serde(rename = "socketGroupFlag")]
    SocketGroupFlag,
    #[serde(rename = "isVolatile")]
    IsVolatile,
    #[serde(rename = "data")]
    Data,
    #[serde(other)]
    Other,
}

/// A string, or an array of strings.
struct OneOrMany(Vec<String>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrManyVisitor;

        impl<'de> Visitor<'de> for OneOrManyVisitor {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_str<E: serde::de::Error>(self, one: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![one.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany, A::Error> {
                let mut many = Vec::new();
                while let Some(name) =
                    seq.next_element::<String>().map_err(|e| A::Error::custom(e.to_string()))?
                {
                    many.push(name);
                }
                Ok(OneOrMany(many))
            }
        }

        deserializer.deserialize_any(OneOrManyVisitor)
    }
}

/// The body with a `data` string that holds JSON replaced by that JSON, and on one line. Line breaks in valid JSON can
/// only be white space between its tokens (RFC 8259 section 7), so a blank stands in for each: Server-Sent Events
/// frame by lines.
fn client_json(body: &Bytes, text: &str, data: Option<&RawValue>) -> Bytes {
    let decoded = data.and_then(decoded_json);
    let has_breaks = body.iter().any(|b| matches!(b, b'\n' | b'\r'));
    if decoded.is_none() && !has_breaks {
        return body.clone();
    }
    let mut json = Vec::with_capacity(text.len());
    match (decoded, data) {
        (Some(decoded), Some(data)) => {
            let start = data.get().as_ptr() as usize - text.as_ptr() as usize;
            json.extend_from_slice(&text.as_bytes()[..start]);
            json.extend_from_slice(decoded.trim().as_bytes());
            json.extend_from_slice(&text.as_bytes()[start + data.get().len()..]);
        }
        _ => json.extend_from_slice(text.as_bytes()),
    }
    for byte in &mut json {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    json.into()
}

/// The JSON text inside a JSON string, if that is what it holds.
fn decoded_json(data: &RawValue) -> Option<String> {
    if !data.get().starts_with('"') {
        return None;
    }
    let inner: String = serde_json::from_str(data.get()).ok()?;
    serde_json::from_str::<&RawValue>(&inner).ok()?;
    Some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(body: &str) -> Result<Message, Rejection> {
        let limits = Limits { id_bytes_max: 8, targets_max: 3, message_bytes_max: 200, ..Limits::DEFAULT };
        Message::parse(&Bytes::copy_from_slice(body.as_bytes()), &limits)
    }

    fn targets(body: &str) -> String {
        parse(body).unwrap().targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn targets_are_strings_or_arrays_each_once() {
        assert_eq!(targets(r#"{"socketSessionId":"a"}"#), "s:a");
        assert_eq!(targets(r#"{"socketGroupFlag":["g","h","g"],"socketSessionId":null}"#), "g:g g:h");
        assert_eq!(targets(r#"{"socketGroupFlag":"*","socketSessionId":["a"]}"#), "s:a *");
    }

    #[test]
    fn volatile_is_the_default_and_false_is_honoured() {
        for (body, reliable) in [
            (r#"{"socketSessionId":"a"}"#, false),
            (r#"{"socketSessionId":"a","isVolatile":null}"#, false),
            (r#"{"socketSessionId":"a","isVolatile":true}"#, false),
            (r#"{"socketSessionId":"a","isVolatile":false}"#, true),
        ] {
            assert_eq!(parse(body).unwrap().reliable, reliable, "{body}");
        }
    }

    #[test]
    fn the_client_gets_the_object_with_data_decoded() {
        for (body, client) in [
            (
                r#"{"socketSessionId":"a","data":{"x":1},"k":[1]}"#,
                r#"{"socketSessionId":"a","data":{"x":1},"k":[1]}"#,
            ),
            (
                r#"{"data":"{\"f\":[\"g\", 1]}","socketSessionId":"a"}"#,
                r#"{"data":{"f":["g", 1]},"socketSessionId":"a"}"#,
            ),
            (r#"{"socketSessionId":"a","data":"[1"}"#, r#"{"socketSessionId":"a","data":"[1"}"#),
            (r#"{"socketSessionId":"a","data":"12"}"#, r#"{"socketSessionId":"a","data":12}"#),
            (r#"{"socketSessionId":"a","data":"show(1)"}"#, r#"{"socketSessionId":"a","data":"show(1)"}"#),
            (r#"{"socketSessionId":"a","data":"\" x\""}"#, r#"{"socketSessionId":"a","data":" x"}"#),
            ("{\n\"socketSessionId\":\r\n\"a\"}", "{ \"socketSessionId\":  \"a\"}"),
            (r#"{"socketSessionId":"a","data":"{\n}"}"#, r#"{"socketSessionId":"a","data":{ }}"#),
            (r#"{"socketSessionId":"a","data":"a\nb"}"#, r#"{"socketSessionId":"a","data":"a\nb"}"#),
        ] {
            assert_eq!(std::str::from_utf8(&parse(body).unwrap().body).unwrap(), client, "{body}");
        }
    }

    #[test]
    fn what_cannot_be_delivered_says_why() {
        let long = format!(r#"{{"socketSessionId":"a","data":"{}"}}"#, "x".repeat(200));
        for (body, label) in [
            ("", "malformed"),
            ("[]", "malformed"),
            ("{", "malformed"),
            (r#"{"socketSessionId":"a"} x"#, "malformed"),
            (r#"{"socketSessionId":7}"#, "malformed"),
            (r#"{"socketSessionId":["a",7]}"#, "malformed"),
            (r#"{"socketSessionId":"a","isVolatile":"no"}"#, "malformed"),
            (r#"{"socketSessionId":"a","socketSessionId":"b"}"#, "malformed"),
            (r#"{"data":1}"#, "no_target"),
            (r#"{"socketGroupFlag":[]}"#, "no_target"),
            (r#"{"socketGroupFlag":["a","b","c","d"]}"#, "too_many_targets"),
            (r#"{"socketGroupFlag":""}"#, "invalid_target"),
            (r#"{"socketSessionId":"123456789"}"#, "invalid_target"),
            (r#"{"socketSessionId":"a\nb"}"#, "invalid_target"),
            (long.as_str(), "too_large"),
        ] {
            assert_eq!(parse(body).unwrap_err().label(), label, "{body}");
        }
        let not_utf8 = Bytes::from_static(b"{\"socketSessionId\":\"\xff\"}");
        assert_eq!(Message::parse(&not_utf8, &Limits::DEFAULT).unwrap_err().label(), "malformed");
        assert!(
            parse(r#"{"socketSessionId":7}"#)
                .unwrap_err()
                .to_string()
                .contains("a string or an array of strings")
        );
    }

    #[test]
    fn a_body_that_needs_no_change_is_not_copied() {
        let body = Bytes::from_static(br#"{"socketSessionId":"a","data":{}}"#);
        assert_eq!(Message::parse(&body, &Limits::DEFAULT).unwrap().body.as_ptr(), body.as_ptr());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Message::parse(&bytes.into(), &Limits::DEFAULT);
        }

        #[test]
        fn the_clients_json_is_valid_and_on_one_line(data in ".{0,60}", inner in "[\\[\\]{}\", \n1a:]{0,20}") {
            let body = serde_json::json!({"socketSessionId": "a", "data": data, "x": {"y": inner}, "z": "\n"});
            let pretty = serde_json::to_string_pretty(&body).unwrap();
            let message = Message::parse(&pretty.into(), &Limits::DEFAULT).unwrap();
            prop_assert!(!message.body.iter().any(|b| matches!(b, b'\n' | b'\r')));
            let client: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
            prop_assert_eq!(&client["x"], &body["x"]);
            let decoded = serde_json::from_str(&data).unwrap_or(serde_json::Value::String(data));
            prop_assert_eq!(&client["data"], &decoded);
        }
    }
}
