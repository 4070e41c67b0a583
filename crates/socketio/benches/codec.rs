//! What it costs to encode an event and to decode what clients send. `cargo bench -p herald-socketio`

use divan::{Bencher, black_box};
use herald_socketio::{Protocol, encode_ack, encode_event};

fn main() {
    divan::main();
}

#[divan::bench(args = [200, 2_000])]
fn encode_a_message(bencher: Bencher<'_, '_>, body_bytes: usize) {
    let body = format!(r#"{{"data":"{:0>body_bytes$}"}}"#, 7);
    let cursor = "AAAAAAAAAAAAAAAAAAAA";
    bencher.bench(|| encode_event("message", black_box(body.as_bytes()), Some(black_box(cursor))));
}

#[divan::bench]
fn encode_an_answer() -> bytes::Bytes {
    encode_ack(black_box(7), black_box(br#"{"ok":true,"socketId":"a","groups":["news"]}"#))
}

#[divan::bench]
fn decode_register(bencher: Bencher<'_, '_>) {
    let text = r#"421["register",{"socketId":"client-000001","groupFlag":["news","sports"]}]"#;
    let mut protocol = Protocol::new();
    let _ = protocol.on_text("40");
    let _ = protocol.accept("sid", None);
    bencher.bench_local(|| protocol.on_text(black_box(text)).is_some());
}

#[divan::bench]
fn decode_pong(bencher: Bencher<'_, '_>) {
    let mut protocol = Protocol::new();
    bencher.bench_local(|| protocol.on_text(black_box("3")).is_some());
}
