//! What is measured, by time and by instructions alike: each function prepares, and returns the work itself.

use std::hint::black_box;

use bytes::Bytes;
use herald_socketio::{Protocol, encode_ack, encode_event};

pub(crate) fn encode_a_message(body_bytes: usize) -> impl Fn() -> Bytes {
    let body = format!(r#"{{"data":"{:0>body_bytes$}"}}"#, 7);
    let cursor = "AAAAAAAAAAAAAAAAAAAA";
    move || encode_event("message", black_box(body.as_bytes()), Some(black_box(cursor)))
}

pub(crate) fn encode_an_answer() -> impl Fn() -> Bytes {
    || encode_ack(black_box(7), black_box(br#"{"ok":true,"socketId":"a","groups":["news"]}"#))
}

pub(crate) fn decode_register() -> impl FnMut() -> bool {
    decode(r#"421["register",{"socketId":"client-000001","groupFlag":["news","sports"]}]"#)
}

pub(crate) fn decode_pong() -> impl FnMut() -> bool {
    decode("3")
}

fn decode(text: &'static str) -> impl FnMut() -> bool {
    let mut protocol = Protocol::new();
    let _ = protocol.on_text("40");
    let _ = protocol.accept("sid", None);
    move || protocol.on_text(black_box(text)).is_some()
}
