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
    let (id, rest) = text.split_at(digits);
    match id.parse() {
        Ok(id) if digits <= ACK_DIGITS_MAX => Ok((Some(id), rest)),
        _ if digits == 0 => Ok((None, rest)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::{encode_ack, encode_connect, encode_connect_error, encode_disconnect, encode_event};
    use proptest::prelude::*;

    /// A packet as one line: namespace, type, and what is in it.
    fn shown(text: &str) -> Result<String, DecodeError> {
        let list = |args: Vec<&RawValue>| args.iter().map(|arg| arg.get()).collect::<Vec<_>>().join(" ");
        let packet = Packet::decode(text)?;
        let body = match packet.body {
            Body::Connect(auth) => format!("connect {:?}", auth.map(RawValue::get)),
            Body::Disconnect => "disconnect".to_owned(),
            Body::Event { name, args, ack, attachments } => {
                format!("event {name} [{}] ack {ack:?} attachments {attachments}", list(args))
            }
            Body::Ack { id, args, attachments } => {
                format!("ack {id} [{}] attachments {attachments}", list(args))
            }
            Body::ConnectError(data) => format!("connect error {data}"),
        };
        Ok(format!("{} {body}", packet.namespace))
    }

    /// The Socket.IO text within an encoded packet.
    fn message(packet: &[u8]) -> &str {
        std::str::from_utf8(packet).unwrap().strip_prefix('4').unwrap()
    }

    #[test]
    fn the_documents_examples_are_read() {
        for (text, packet) in [
            ("0", "/ connect None"),
            (r#"0/admin,{"sid":"oSO0"}"#, r#"/admin connect Some("{\"sid\":\"oSO0\"}")"#),
            ("0/admin,", "/admin connect None"),
            ("0/random", "/random connect None"),
            (r#"4{"message":"Not authorized"}"#, r#"/ connect error {"message":"Not authorized"}"#),
            (r#"2["foo"]"#, "/ event foo [] ack None attachments 0"),
            (r#"2/admin,["bar"]"#, "/admin event bar [] ack None attachments 0"),
            (r#"212["foo"]"#, "/ event foo [] ack Some(12) attachments 0"),
            (r#"3/admin,13["bar"]"#, r#"/admin ack 13 ["bar"] attachments 0"#),
            ("30[]", "/ ack 0 [] attachments 0"),
            ("1", "/ disconnect"),
            ("1/admin,", "/admin disconnect"),
            (
                r#"52-/admin,["baz",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#,
                r#"/admin event baz [{"_placeholder":true,"num":0} {"_placeholder":true,"num":1}] ack None attachments 2"#,
            ),
            (
                r#"61-15["bar",{"_placeholder":true,"num":0}]"#,
                r#"/ ack 15 ["bar" {"_placeholder":true,"num":0}] attachments 1"#,
            ),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(packet), "{text}");
        }
    }

    #[test]
    fn what_is_odd_but_allowed_is_read() {
        for (text, packet) in [
            (r#"2["a\u0062\n"]"#, "/ event ab\n [] ack None attachments 0"),
            (r#"2[ "x" , 1 , [2, 3] ]"#, "/ event x [1 [2, 3]] ack None attachments 0"),
            ("2[17,null]", "/ event 17 [null] ack None attachments 0"),
            (r#"29007199254740991["x"]"#, "/ event x [] ack Some(9007199254740991) attachments 0"),
            (r#"510-["x"]"#, "/ event x [] ack None attachments 10"),
            (r#"4"no""#, r#"/ connect error "no""#),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(packet), "{text}");
        }
    }

    #[test]
    fn every_malformed_packet_is_named() {
        use DecodeError::{
            AckIdMissing, AckIdTooLong, BadAttachments, BadNamespace, ReservedEvent, UnknownType,
        };
        let long_namespace = format!("0/{}", "n".repeat(NAMESPACE_BYTES_MAX));
        for (error, texts) in [
            (UnknownType, ["", "7", "abc", "€", "-0"].as_slice()),
            (
                BadAttachments,
                &["5", "5[\"x\"]", "5-[\"x\"]", "50-[\"x\"]", "511-[\"x\"]", "5+1-[\"x\"]", "61"],
            ),
            (BadNamespace, &[&long_namespace, "0/a\u{1e}b", "2/a\n,[\"x\"]"]),
            (AckIdTooLong, &["212345678901234567[\"x\"]", "399999999999999999999999[]"]),
            (AckIdMissing, &["3[]", "3", "3x", "61-[]"]),
            (ReservedEvent, &["2[\"connect\"]", "2[\"disconnecting\",1]", "2[\"newLi\\u0073tener\"]"]),
        ] {
            for text in texts {
                assert_eq!(shown(text), Err(error), "{text}");
            }
        }
    }

    #[test]
    fn every_wrong_payload_is_refused() {
        let too_many = format!("2[\"x\"{}]", ",1".repeat(ARGS_MAX));
        for text in [
            "0null",
            "0[]",
            "0\"x\"",
            "0{",
            "0{}x",
            "0,",
            "1{}",
            "1x",
            "4",
            "4null",
            "4[]",
            "2",
            "2[]",
            "2{}",
            "2null",
            "2[null]",
            "2[{}]",
            "2[\"x\"",
            "2[\"x\",]",
            "2[\"x\"]]",
            "2[\"\\ud800\"]",
            "2,[\"x\"]",
            "2x",
            "31",
            "31{}",
            "31[",
            "51-",
            "51-{}",
            &too_many,
        ] {
            assert!(matches!(shown(text), Err(DecodeError::BadPayload { .. })), "{text}: {:?}", shown(text));
        }
        assert!(shown(&too_many.replacen(",1", "", 1)).is_ok());
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        let deep = format!("2[\"x\",{}{}]", "[".repeat(200_000), "]".repeat(200_000));
        assert!(shown(&deep).is_ok());
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| map.into_iter().collect())
            ]
        })
    }

    proptest! {
        #[test]
        fn an_event_survives_its_text(name in any::<String>(), arg in json(), cursor in any::<Option<String>>()) {
            prop_assume!(!RESERVED_EVENTS.contains(&name.as_str()));
            let arg = arg.to_string();
            let event = crate::Event { name: &name, arg: arg.as_bytes(), cursor: cursor.as_deref() };
            let text = event.encode();
            prop_assert_eq!(text.len(), event.encoded_len());
            prop_assert_eq!(&text, &encode_event(&name, arg.as_bytes(), cursor.as_deref()));
            let Body::Event { name: read, args, ack: None, attachments: 0 } = Packet::decode(message(&text)).unwrap().body
            else { panic!("not an event") };
            prop_assert_eq!(read, name);
            prop_assert_eq!(args[0].get(), arg);
            let last = args.get(1).map(|last| serde_json::from_str::<String>(last.get()).unwrap());
            prop_assert_eq!((args.len(), last), (1 + usize::from(cursor.is_some()), cursor));
        }

        #[test]
        fn an_ack_survives_its_text(id in 0..=9_007_199_254_740_991_u64, arg in json()) {
            let arg = arg.to_string();
            let packet = encode_ack(id, arg.as_bytes());
            prop_assert_eq!(shown(message(&packet)), Ok(format!("/ ack {id} [{arg}] attachments 0")));
        }

        #[test]
        fn the_answers_to_connect_survive_their_text(text in any::<String>(), pid in any::<Option<String>>(), data in json()) {
            let answer = encode_connect(&text, pid.as_deref());
            let Body::Connect(Some(object)) = Packet::decode(message(&answer)).unwrap().body else { panic!("not a connect") };
            let mut expected = serde_json::json!({ "sid": text });
            if let Some(pid) = pid {
                expected["pid"] = pid.into();
            }
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(object.get()).unwrap(), expected);

            let error = encode_connect_error("/admin", &text, Some(data.to_string().as_bytes()));
            let Packet { namespace, body: Body::ConnectError(object) } = Packet::decode(message(&error)).unwrap()
            else { panic!("not a connect error") };
            prop_assert_eq!(namespace, "/admin");
            let expected = serde_json::json!({ "message": text, "data": data });
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(object.get()).unwrap(), expected);
        }

        #[test]
        fn arbitrary_text_is_refused_in_peace(text in any::<String>()) {
            let _ = shown(&text);
        }

        #[test]
        fn nearly_right_text_is_refused_in_peace(
            text in r#"[0-7]([0-9]{0,3}-)?(/[a-z€,]{0,4})?,?[0-9]{0,20}[\[{]?["a-z\\0-9, €:\[\]{}]{0,20}[\]}]?"#
        ) {
            let _ = shown(&text);
        }
    }

    #[test]
    fn the_servers_packets_read_as_the_document_writes_them() {
        assert_eq!(encode_connect("wZX3", None), r#"40{"sid":"wZX3"}"#);
        assert_eq!(encode_connect("wZX3", Some("p")), r#"40{"sid":"wZX3","pid":"p"}"#);
        assert_eq!(encode_connect_error("/", "no", None), r#"44{"message":"no"}"#);
        assert_eq!(encode_connect_error("/x", "no", Some(b"[1]")), r#"44/x,{"message":"no","data":[1]}"#);
        assert_eq!(encode_event("message", b"{}", None), r#"42["message",{}]"#);
        assert_eq!(encode_event("message", b"{}", Some("1-0")), r#"42["message",{},"1-0"]"#);
        assert_eq!(encode_ack(12, br#"{"ok":true}"#), r#"4312[{"ok":true}]"#);
        assert_eq!(encode_disconnect(), "41");
    }
}
