//! Every answer of `POST /publish`, on the bus in memory, and over a socket.

use std::future::poll_fn;
use std::task::Poll;

use herald_bus::{LogConfig, RedisConfig};
use herald_chassis::Context;
use herald_wire::{Limits, Position, Target};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::flow::TARGET_DEFAULT;

const RULES: Rules = Rules { limits: Limits::DEFAULT, ttl_ms: 60_000 };

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: serde_json::Value,
}

impl Answer {
    fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

fn config() -> HttpConfig {
    HttpConfig { body_bytes_max: 500, messages_max: 3, window: 3, ..HttpConfig::default() }
}

fn intake(config: HttpConfig) -> (Intake, Bus) {
    let bus = Bus::memory(LogConfig::default());
    let flow = Flow::new(TARGET_DEFAULT);
    (Intake::new(config, RULES, (bus.clone(), flow), Context::new().tasks), bus)
}

fn intake_with(flow: &Flow) -> Intake {
    let bus = Bus::memory(LogConfig::default());
    Intake::new(config(), RULES, (bus, flow.clone()), Context::new().tasks)
}

async fn ask(intake: &Intake, request: http::request::Builder, body: impl Into<Bytes>) -> Answer {
    let response = intake.answer(request.body(Full::new(body.into())).unwrap()).await;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&body).unwrap();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

fn post() -> http::request::Builder {
    Request::post(PATH).header(header::HOST, "me:8080")
}

async fn log_of(bus: &Bus, socket_id: &str) -> usize {
    bus.read_log(&Target::socket(socket_id, 9).unwrap(), Position::ZERO, 99).await.unwrap().len()
}

const RELIABLE: &str = r#"{"socketSessionId":"a","isVolatile":false}"#;
const VOLATILE: &str = r#"{"socketSessionId":"a"}"#;

#[tokio::test]
async fn one_message_is_answered_once_it_is_logged() {
    let (intake, bus) = intake(config());
    let answer = ask(&intake, post().header("idempotency-key", "k"), RELIABLE).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, serde_json::json!({"accepted": true, "id": "k", "duplicate": false}));
    assert_eq!(log_of(&bus, "a").await, 1);
    let again = ask(&intake, post().header("idempotency-key", "k"), RELIABLE).await;
    assert_eq!(again.body, serde_json::json!({"accepted": true, "id": "k", "duplicate": true}));
    assert_eq!(log_of(&bus, "a").await, 1);
    let named = ask(&intake, post(), RELIABLE).await;
    assert_eq!(named.body["id"].as_str().unwrap().len(), 32);
    let volatile = ask(&intake, post(), VOLATILE).await;
    assert_eq!(volatile.body, serde_json::json!({"accepted": true, "duplicate": false}));
}

#[tokio::test]
async fn an_array_is_answered_message_by_message() {
    let (intake, bus) = intake(config());
    let body = format!(" [{RELIABLE}, {{}}, {RELIABLE}]");
    let answer = ask(&intake, post().header("idempotency-key", "k"), body.clone()).await;
    assert_eq!(answer.status, 200);
    let results = answer.body["results"].as_array().unwrap();
    assert_eq!(results[0], serde_json::json!({"accepted": true, "id": "k/0", "duplicate": false}));
    assert_eq!((&results[1]["accepted"], &results[1]["error"]["code"]), (&false.into(), &"no_target".into()));
    assert_eq!(results[2]["id"], "k/2");
    assert_eq!(log_of(&bus, "a").await, 2);
    let again = ask(&intake, post().header("idempotency-key", "k"), body).await;
    assert_eq!(again.body["results"][0]["duplicate"], true);
    assert_eq!(log_of(&bus, "a").await, 2);
    assert_eq!(ask(&intake, post(), "[]").await.body, serde_json::json!({"results": []}));
}

#[tokio::test]
async fn what_is_refused_says_why() {
    let (intake, _) = intake(HttpConfig { token: Some(Secret::new("open")), ..config() });
    let post = || post().header(header::AUTHORIZATION, "Bearer open");
    let long = format!(r#"{{"socketSessionId":"a","data":"{}"}}"#, "x".repeat(500));
    let rows: Vec<(http::request::Builder, &str, u16, &str)> = vec![
        (Request::post("/other"), VOLATILE, 404, "not_found"),
        (Request::get(PATH), "", 405, "method_not_allowed"),
        (Request::options(PATH), "", 405, "method_not_allowed"),
        (Request::post(PATH), VOLATILE, 401, "unauthorized"),
        (Request::post(PATH).header("authorization", "Bearer opem"), VOLATILE, 401, "unauthorized"),
        (Request::post(PATH).header("authorization", "Basic open"), VOLATILE, 401, "unauthorized"),
        (post().header("origin", "http://evil.example"), VOLATILE, 403, "cross_origin"),
        (post().header("origin", "null"), VOLATILE, 403, "cross_origin"),
        (post().header("content-type", "text/plain"), VOLATILE, 415, "unsupported_media_type"),
        (post().header("content-encoding", "gzip"), VOLATILE, 415, "unsupported_media_type"),
        (post().header("idempotency-key", "\u{fc}"), VOLATILE, 400, "invalid_header"),
        (post(), "", 400, "not_json"),
        (post(), "{", 400, "not_json"),
        (post(), "[1,]", 400, "not_json"),
        (post(), "[{}] x", 400, "not_json"),
        (post(), &long, 413, "too_large"),
        (post(), "[1,2,3,4]", 413, "too_many_messages"),
        (post(), "7", 422, "malformed"),
        (post(), r#"{"data":1}"#, 422, "no_target"),
        (post().header("herald-expiration-ms", "soon"), VOLATILE, 422, "invalid_expiration"),
        (post().header("herald-expiration-ms", "0"), VOLATILE, 422, "expired"),
        (post().header("idempotency-key", "k".repeat(257)), VOLATILE, 422, "invalid_message_id"),
    ];
    for (request, body, status, code) in rows {
        let shown = format!("{request:?} {body}");
        let answer = ask(&intake, request, body.to_owned()).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{shown}");
        assert!(!answer.body["error"]["message"].as_str().unwrap().is_empty());
    }
    for (name, value) in [
        ("origin", "http://me:8080"),
        ("content-type", "Application/JSON; charset=utf-8"),
        ("content-type", "application/x-www-form-urlencoded"),
    ] {
        let answer = ask(&intake, post().header(name, value), VOLATILE).await;
        assert_eq!(answer.status, 200, "{name}: {value}");
    }
}

#[tokio::test]
async fn without_the_bus_the_producer_is_told_to_try_again() {
    let mut redis = RedisConfig::new("redis://127.0.0.1:1");
    redis.response_timeout = Duration::from_millis(20);
    let bus = Bus::redis(redis).await.unwrap();
    let flow = Flow::new(TARGET_DEFAULT);
    let intake = Intake::new(config(), RULES, (bus, flow), Context::new().tasks);
    let answer = ask(&intake, post().header("idempotency-key", "k"), RELIABLE).await;
    assert_eq!((answer.status, answer.code()), (503, "unavailable"));
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.body["id"], "k");
    let answer = ask(&intake, post(), format!("[{{}},{RELIABLE}]")).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.body["results"][0]["error"]["code"], "no_target");
    assert_eq!(answer.body["results"][1]["error"]["code"], "unavailable");
}

/// A body that never comes.
struct Silent;

impl Body for Silent {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_on_their_way_are_bounded_in_time_and_together() {
    let max = BODIES_BYTES_MAX;
    let (intake, _) = intake(HttpConfig { body_bytes_max: max, ..config() });
    let mut silent = std::pin::pin!(intake.answer(post().body(Silent).unwrap()));
    // it announces no length, so the most is set aside for it
    poll_fn(|cx| {
        assert!(silent.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    let answer = ask(&intake, post(), VOLATILE).await;
    assert_eq!((answer.status, answer.code()), (503, "overloaded"));
    assert_eq!(silent.await.status().as_u16(), 408);
    assert_eq!(ask(&intake, post(), VOLATILE).await.status, 200);
}

async fn served(ctx: &Context) -> (std::net::SocketAddr, Bus) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (intake, bus) = intake(config());
    ctx.tasks.spawn("http", serve(listener, intake, ctx.clone()));
    (address, bus)
}

#[tokio::test]
async fn it_is_served_over_a_socket_and_drains() {
    let ctx = Context::new();
    let (address, bus) = served(&ctx).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    // the server says "continue" once it is in the request: from then on it must be finished
    let head = format!(
        "POST /publish HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        RELIABLE.len()
    );
    let mut answer = vec![0; 1_000];
    stream.write_all(head.as_bytes()).await.unwrap();
    let read = stream.read(&mut answer).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&answer));
    let drained = tokio::spawn({
        let tasks = ctx.tasks.clone();
        async move { tasks.drain(Duration::from_secs(20)).await }
    });
    ctx.shutdown.soft().await;
    stream.write_all(RELIABLE.as_bytes()).await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 200"), "{rest}");
    assert_eq!(drained.await.unwrap(), herald_chassis::shutdown::Drained::Soft);
    assert_eq!(log_of(&bus, "a").await, 1);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_body_larger_than_it_said_or_not_http_at_all_harms_nobody() {
    let ctx = Context::new();
    let (address, _) = served(&ctx).await;
    for bytes in [
        &b"\x00\xff\x00garbage\r\n\r\n"[..],
        b"POST /publish HTTP/1.1\r\nhost: h\r\ncontent-length: 99999999999\r\n\r\n",
        b"POST /publish HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nfff\r\n",
        b"POST /publish HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // an answer or a reset: both end it
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /publish HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
}

proptest! {
    #[test]
    fn arbitrary_bodies_are_answered_in_json(body: Vec<u8>, array: bool) {
        let body = if array { [b"[", &body[..], b"]"].concat() } else { body };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let status = runtime.block_on(async {
            let (intake, _) = intake(config());
            ask(&intake, post(), body).await.status
        });
        prop_assert!([200, 400, 413, 422].contains(&status), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_while_messages_must_and_is_sent_away_after_a_second() {
    let flow = Flow::new(TARGET_DEFAULT);
    let intake = intake_with(&flow);
    let start = tokio::time::Instant::now();
    flow.spend(flow.room() + 500);
    let passed = ask(&intake, post(), r#"{"socketSessionId":"a","isVolatile":false}"#).await;
    assert_eq!(passed.status, 200);
    assert!((450..=550).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    flow.spend(1_000_000);
    let sent_away = ask(&intake, post(), r#"{"socketSessionId":"a"}"#).await;
    assert_eq!((sent_away.status, sent_away.code()), (503, "overloaded"));
    assert_eq!(sent_away.headers[header::RETRY_AFTER], "1");
}

#[tokio::test]
async fn a_volatile_message_that_had_to_wait_too_long_is_shed_and_a_reliable_one_is_not() {
    let flow = Flow::new(TARGET_DEFAULT);
    let intake = intake_with(&flow);
    flow.press();
    // a quarter of a second's worth
    flow.spend(flow.room() + 250);
    let both = r#"[{"socketSessionId":"a"},{"socketSessionId":"a","isVolatile":false}]"#;
    let answer = ask(&intake, post(), both).await;
    assert_eq!(answer.status, 200);
    let results = &answer.body["results"];
    assert_eq!((&results[0]["accepted"], &results[0]["error"]["code"]), (&false.into(), &"shed".into()));
    assert_eq!(results[1]["accepted"], true);
}
