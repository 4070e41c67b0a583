//! What it costs to understand a message, and to write and read what travels on Redis. `cargo bench -p herald-wire`

use bytes::Bytes;
use divan::{Bencher, black_box};
use herald_wire::envelope::{Place, append_place};
use herald_wire::{Cursor, Envelope, Epoch, Limits, Message, Position};

fn main() {
    divan::main();
}

const SIZES: [usize; 2] = [200, 2_000];
const PLACE: Place =
    Place { position: Position(1_790_000_000_000_001), prev: Position(1_790_000_000_000_000) };

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

#[divan::bench(args = SIZES)]
fn parse_a_message(bencher: Bencher<'_, '_>, bytes: usize) {
    let body = body(bytes);
    bencher.bench(|| Message::parse(black_box(&body), &Limits::DEFAULT));
}

#[divan::bench]
fn parse_a_message_whose_data_is_json_in_a_string(bencher: Bencher<'_, '_>) {
    let body =
        Bytes::from_static(br#"{"socketGroupFlag":"news","data":"{\"call\":\"show\",\"with\":[1,2,3]}"}"#);
    bencher.bench(|| Message::parse(black_box(&body), &Limits::DEFAULT));
}

#[divan::bench(args = SIZES)]
fn write_an_envelope(bencher: Bencher<'_, '_>, bytes: usize) {
    let envelope = envelope(bytes);
    bencher.bench(|| black_box(&envelope).to_bytes());
}

#[divan::bench(args = SIZES)]
fn read_an_envelope_and_its_place(bencher: Bencher<'_, '_>, bytes: usize) {
    let bytes = append_place(&envelope(bytes).to_bytes(), PLACE);
    bencher.bench(|| {
        let envelope = Envelope::read(black_box(bytes.clone())).ok()?;
        envelope.place().ok()
    });
}

#[divan::bench]
fn write_a_cursor() -> String {
    let cursor = Cursor { epoch: Epoch(7), slot: Cursor::ONE_REDIS, position: PLACE.position, mailbox: None };
    black_box(cursor).to_string()
}

#[divan::bench]
fn read_a_cursor(bencher: Bencher<'_, '_>) {
    let cursor = Cursor { epoch: Epoch(7), slot: Cursor::ONE_REDIS, position: PLACE.position, mailbox: None };
    let text = cursor.to_string();
    bencher.bench(|| Cursor::parse(black_box(&text)).is_ok());
}
