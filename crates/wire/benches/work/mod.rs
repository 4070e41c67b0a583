//! What is measured, by time and by instructions alike: each function prepares, and returns the work itself.

use std::hint::black_box;

use bytes::Bytes;
use herald_wire::envelope::{Place, append_place};
use herald_wire::{Cursor, Envelope, Epoch, Limits, Message, Position};

const PLACE: Place =
    Place { position: Position(1_790_000_000_000_001), prev: Position(1_790_000_000_000_000) };
const CURSOR: Cursor =
    Cursor { epoch: Epoch(7), slot: Cursor::ONE_REDIS, position: PLACE.position, mailbox: None };

pub(crate) fn parse_a_message(bytes: usize) -> impl Fn() -> bool {
    let body = body(bytes);
    move || Message::parse(black_box(&body), &Limits::DEFAULT).is_ok()
}

pub(crate) fn parse_a_message_whose_data_is_json_in_a_string() -> impl Fn() -> bool {
    let body =
        Bytes::from_static(br#"{"socketGroupFlag":"news","data":"{\"call\":\"show\",\"with\":[1,2,3]}"}"#);
    move || Message::parse(black_box(&body), &Limits::DEFAULT).is_ok()
}

pub(crate) fn write_an_envelope(bytes: usize) -> impl Fn() -> Bytes {
    let envelope = envelope(bytes);
    move || black_box(&envelope).to_bytes()
}

pub(crate) fn read_an_envelope_and_its_place(bytes: usize) -> impl Fn() -> Option<Place> {
    let bytes = append_place(&envelope(bytes).to_bytes(), PLACE);
    move || Envelope::read(black_box(bytes.clone())).ok()?.place().ok()?
}

pub(crate) fn write_a_cursor() -> impl Fn() -> String {
    || black_box(CURSOR).to_string()
}

pub(crate) fn read_a_cursor() -> impl Fn() -> bool {
    let text = CURSOR.to_string();
    move || Cursor::parse(black_box(&text)).is_ok()
}

fn body(bytes: usize) -> Bytes {
    format!(r#"{{"socketGroupFlag":"news","isVolatile":false,"data":"{:0>bytes$}"}}"#, 7).into()
}

fn envelope(bytes: usize) -> Envelope {
    Envelope {
        body: body(bytes),
        reliable: true,
        message_id: "2f1acc6c3a6043f9a1f4b8b1f1d8c9aa".into(),
        sent_at_us: 1_790_000_000_000_000,
        received_at_us: 1_790_000_000_000_100,
        published_at_us: 1_790_000_000_000_200,
        expires_at_ms: 1_790_000_600_000,
        ..Envelope::default()
    }
}
