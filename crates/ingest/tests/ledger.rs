//! The metrics of ingest: each that is documented is there, and at rest the ledger of messages is even. Alone in its
//! file, because a process has one recorder.

#![allow(clippy::unwrap_used, clippy::panic, reason = "this is test code, though not all in test functions")]

mod support;

use herald_chassis::telemetry;
use lapin::BasicProperties;
use support::producer::Producer;
use support::{Ingest, given, numbered, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const DOCUMENTED: &str = include_str!("../src/metrics.rs");

/// The sum over all labels of a metric that start with `name`.
fn sum(text: &str, name: &str) -> f64 {
    let lines = text
        .lines()
        .filter(|line| line.starts_with(&format!("{name} ")) || line.starts_with(&format!("{name}{{")));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

async fn post(ingest: &Ingest, body: &str) {
    let mut stream = TcpStream::connect(ingest.http.unwrap()).await.unwrap();
    let head = format!(
        "POST /publish HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn every_metric_is_there_and_the_ledger_is_even() {
    let recorder = telemetry::recorder().unwrap();
    let metrics = recorder.handle();
    metrics::set_global_recorder(recorder).unwrap();
    let mut ingest = Ingest::new("ledger").await;
    ingest.started().await;
    let producer = Producer::connect(&given("HERALD_TEST_AMQP_URL"), &ingest.name).await;
    let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let plain = BasicProperties::default;
    let volatile = r#"{"socketGroupFlag":"g","data":1}"#.to_owned();
    let mut messages = vec![
        (numbered("a", 1), plain().with_message_id("m".into())),
        (numbered("a", 1), plain().with_message_id("m".into())),
        (volatile.clone(), plain().with_timestamp(now_s)),
        ("bad".to_owned(), plain()),
        (volatile.clone(), plain().with_timestamp(now_s - 60).with_expiration("20000".into())),
    ];
    messages.extend((0..500).map(|n| (numbered("b", n), plain())));
    producer.send(messages).await;
    post(&ingest, &format!("[{volatile},{},{{}}]", numbered("a", 2))).await;
    let text = until("506 messages are done", async || {
        let text = metrics.render();
        let at_rest = sum(&text, "herald_ingest_in_flight_messages") == 0.0;
        (at_rest && sum(&text, "herald_ingest_consumed_total") == 508.0).then_some(text)
    })
    .await;
    for (name, value) in [
        ("published_total{class=\"reliable\"}", 502.0),
        ("published_total{class=\"volatile\"}", 2.0),
        ("duplicates_total", 1.0),
        ("dead_lettered_total{reason=\"malformed\"}", 1.0),
        ("dead_lettered_total{reason=\"expired\"}", 1.0),
        ("rejected_total{reason=\"no_target\"}", 1.0),
        ("pressure_lateness_seconds", 0.0),
    ] {
        let line = format!("herald_ingest_{name} {value}");
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    let done = ["published", "duplicates", "shed", "dead_lettered", "rejected", "unanswered", "returned"];
    let done: f64 = done.iter().map(|name| sum(&text, &format!("herald_ingest_{name}_total"))).sum();
    assert_eq!(done, 508.0);
    for row in DOCUMENTED.lines().filter_map(|line| line.strip_prefix("//! | `")) {
        let name = row.split('`').next().unwrap();
        assert!(text.contains(&format!("# TYPE {name} ")), "{name} is documented and missing");
    }
    for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE herald_ingest_")) {
        let name = name.split(' ').next().unwrap();
        assert!(DOCUMENTED.contains(&format!("//! | `herald_ingest_{name}`")), "{name} is not documented");
    }
    ingest.stop().await;
}
