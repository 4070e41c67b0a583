//! A message on its way from the feed to connections: encoded at most once for each protocol, its bytes shared by all.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use herald_wire::envelope::{EnvelopeError, Place};
use herald_wire::target::EVERYONE;
use herald_wire::{Cursor, Envelope, Position, Target, TargetKind};
use serde_json::json;
use tokio::time::Instant;

use crate::frame;
use crate::origin::Origins;

/// How a connection's frames look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Socket.IO packets in WebSocket frames.
    SocketIo,
    /// Bare Socket.IO packets, for HTTP long-polling.
    Polling,
    /// JSON in WebSocket frames.
    Plain,
    /// Server-Sent Events (WHATWG HTML, section 9.2).
    Events,
}

/// The events a delivery can be.
const MESSAGE: &str = "message";
const GAP: &str = "gap";

#[derive(Debug)]
pub(crate) struct Delivery {
    name: &'static str,
    pub(crate) target: Target,
    /// For a reliable message.
    pub(crate) place: Option<Place>,
    /// Not 0: other targets got a copy with the same number.
    pub(crate) copies_id: u64,
    /// The channel's log was lost, or is not what it was: what follows may stand at any position behind this.
    pub(crate) begins_anew: Option<Position>,
    pub(crate) published_at_us: u64,
    /// When this edge had it.
    pub(crate) received_at: Instant,
    expires_at_ms: u64,
    body: Bytes,
    cursor: Option<Cursor>,
    socketio: OnceLock<Bytes>,
    plain: OnceLock<Bytes>,
    events: OnceLock<Bytes>,
}

impl Delivery {
    /// Reads what the feed or a log brought for `target`.
    pub(crate) fn read(target: Target, envelope: Bytes, origins: &Origins) -> Result<Self, EnvelopeError> {
        let envelope = Envelope::read(envelope)?;
        let place = envelope.place()?;
        let cursor = place.map(|place| origins.cursor(&target, place.position));
        Ok(Self {
            name: MESSAGE,
            target,
            place,
            copies_id: envelope.copies_id,
            begins_anew: None,
            published_at_us: envelope.published_at_us,
            received_at: Instant::now(),
            expires_at_ms: envelope.expires_at_ms,
            body: envelope.body,
            cursor,
            socketio: OnceLock::new(),
            plain: OnceLock::new(),
            events: OnceLock::new(),
        })
    }

    /// What was published for `target` in this stretch is lost; `body` is the argument of the `gap` event:
    /// `{target: {socketId | group}, from, to}` with times in milliseconds since the Unix epoch.
    pub(crate) fn gap(target: Target, from: Position, to: Position) -> Self {
        let (key, name) = match target.kind() {
            TargetKind::Socket(id) => ("socketId", id),
            TargetKind::Group(group) => ("group", group),
            TargetKind::Everyone => ("group", EVERYONE),
        };
        let millis = |position: Position| position.0 / 1_000;
        let json = json!({ "target": { key: name }, "from": millis(from), "to": millis(to) });
        Self {
            name: GAP,
            body: json.to_string().into(),
            target,
            place: None,
            copies_id: 0,
            begins_anew: None,
            published_at_us: 0,
            received_at: Instant::now(),
            expires_at_ms: 0,
            cursor: None,
            socketio: OnceLock::new(),
            plain: OnceLock::new(),
            events: OnceLock::new(),
        }
    }

    /// The same, of a channel whose positions begin anew behind this one.
    pub(crate) fn anew(mut self, position: Position) -> Self {
        self.begins_anew = Some(position);
        self
    }

    pub(crate) fn is_gap(&self) -> bool {
        self.name == GAP
    }

    /// The same message with a cursor that says: everything up to `position`, and of the mailbox up to here.
    pub(crate) fn behind(mut self, position: Position) -> Self {
        self.cursor = self.cursor.map(|cursor| Cursor { position, mailbox: Some(cursor.position), ..cursor });
        self
    }

    /// Whether its time is over.
    pub(crate) fn is_expired(&self) -> bool {
        self.expires_at_ms != 0 && self.expires_at_ms <= now_us() / 1_000
    }

    /// The bytes for connections of this encoding.
    pub(crate) fn frame(&self, encoding: Encoding) -> Bytes {
        match encoding {
            Encoding::SocketIo => self.socketio_frame().clone(),
            Encoding::Polling => frame::payload(self.socketio_frame()),
            Encoding::Plain => self.plain.get_or_init(|| self.encode_plain()).clone(),
            Encoding::Events => self.events.get_or_init(|| self.encode_events()).clone(),
        }
    }

    fn socketio_frame(&self) -> &Bytes {
        self.socketio.get_or_init(|| {
            let cursor = self.cursor.map(|cursor| cursor.to_string());
            let cursor = cursor.as_deref();
            frame::text(&herald_socketio::encode_event(self.name, &self.body, cursor))
        })
    }

    /// `{"type":"message","message":<body>,"cursor":"…"}`
    fn encode_plain(&self) -> Bytes {
        if self.is_gap() {
            // an event of the edge itself: its fields stand beside the type
            return frame::text(&[br#"{"type":"gap","#, &self.body[1..]].concat());
        }
        let mut json = BytesMut::with_capacity(self.body.len() + 80);
        json.put_slice(br#"{"type":"message","message":"#);
        json.put_slice(&self.body);
        if let Some(cursor) = self.cursor {
            json.put_slice(br#","cursor":""#);
            json.put_slice(cursor.to_string().as_bytes());
            json.put_u8(b'"');
        }
        json.put_u8(b'}');
        frame::text(&json)
    }

    /// `event: message`, the cursor as the event's id, the body as its one line of data.
    fn encode_events(&self) -> Bytes {
        let mut event = BytesMut::with_capacity(self.body.len() + 64);
        event.put_slice(b"event: ");
        event.put_slice(self.name.as_bytes());
        event.put_u8(b'\n');
        if let Some(cursor) = self.cursor {
            event.put_slice(b"id: ");
            event.put_slice(cursor.to_string().as_bytes());
            event.put_u8(b'\n');
        }
        event.put_slice(b"data: ");
        event.put_slice(&self.body);
        event.put_slice(b"\n\n");
        event.freeze()
    }
}

/// An event of the edge itself (`superseded`, `gap`, …) whose one argument is a JSON object.
pub(crate) fn event(encoding: Encoding, name: &str, json: &serde_json::Value) -> Bytes {
    let text = json.to_string();
    match encoding {
        Encoding::SocketIo => frame::text(&herald_socketio::encode_event(name, text.as_bytes(), None)),
        Encoding::Polling => herald_socketio::encode_event(name, text.as_bytes(), None),
        Encoding::Plain => {
            let mut object = json.clone();
            object["type"] = name.into();
            frame::text(object.to_string().as_bytes())
        }
        Encoding::Events => format!("event: {name}\ndata: {text}\n\n").into(),
    }
}

/// The ping that keeps a connection of this encoding alive.
pub(crate) fn ping(encoding: Encoding) -> Bytes {
    match encoding {
        Encoding::SocketIo => Bytes::from_static(&[0x81, 1, b'2']),
        Encoding::Polling => Bytes::from_static(b"2"),
        Encoding::Plain => frame::PING,
        Encoding::Events => Bytes::from_static(b": ping\n\n"),
    }
}

/// Wall clock, microseconds since the Unix epoch.
pub(crate) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use herald_wire::envelope::append_place;

    fn delivery(reliable: bool) -> Delivery {
        let envelope = Envelope {
            body: Bytes::from_static(br#"{"socketGroupFlag":"g","data":[1]}"#),
            reliable,
            ..Envelope::default()
        };
        let place = Place { position: Position(2_000_001), prev: Position(0) };
        let bytes = if reliable { append_place(&envelope.to_bytes(), place) } else { envelope.to_bytes() };
        let origins = Origins::new(herald_bus::Bus::memory(herald_bus::LogConfig::default()));
        Delivery::read(Target::group("g", 8).unwrap(), bytes, &origins).unwrap()
    }

    fn text(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_reliable_message_carries_its_cursor_in_every_encoding() {
        let delivery = delivery(true);
        let cursor = delivery.cursor.unwrap().to_string();
        let body = r#"{"socketGroupFlag":"g","data":[1]}"#;
        assert_eq!(text(&delivery.frame(Encoding::Polling)), format!(r#"42["message",{body},"{cursor}"]"#));
        assert_eq!(frame::payload(&delivery.frame(Encoding::SocketIo)), delivery.frame(Encoding::Polling));
        assert_eq!(
            text(&frame::payload(&delivery.frame(Encoding::Plain))),
            format!(r#"{{"type":"message","message":{body},"cursor":"{cursor}"}}"#)
        );
        assert_eq!(
            text(&delivery.frame(Encoding::Events)),
            format!("event: message\nid: {cursor}\ndata: {body}\n\n")
        );
    }

    #[test]
    fn a_volatile_message_carries_none() {
        let delivery = delivery(false);
        assert_eq!(
            text(&delivery.frame(Encoding::Polling)),
            r#"42["message",{"socketGroupFlag":"g","data":[1]}]"#
        );
        assert!(!text(&delivery.frame(Encoding::Events)).contains("id:"));
    }

    #[test]
    fn a_gap_says_of_what_and_when() {
        let gap = Delivery::gap(Target::group("g", 8).unwrap(), Position(1_000), Position(2_500));
        let fields = r#""from":1,"target":{"group":"g"},"to":2"#;
        assert_eq!(text(&gap.frame(Encoding::Polling)), format!(r#"42["gap",{{{fields}}}]"#));
        assert_eq!(
            text(&frame::payload(&gap.frame(Encoding::Plain))),
            format!(r#"{{"type":"gap",{fields}}}"#)
        );
    }

    #[test]
    fn all_connections_of_an_encoding_share_the_bytes() {
        let delivery = delivery(true);
        for encoding in [Encoding::SocketIo, Encoding::Polling, Encoding::Plain, Encoding::Events] {
            assert_eq!(delivery.frame(encoding).as_ptr(), delivery.frame(encoding).as_ptr());
        }
    }

    #[test]
    fn a_message_from_the_mailbox_says_what_else_was_received() {
        let cursor = delivery(true).behind(Position(9_000_000)).cursor.unwrap();
        assert_eq!((cursor.position, cursor.mailbox), (Position(9_000_000), Some(Position(2_000_001))));
    }
}
