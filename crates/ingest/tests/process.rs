//! `herald-ingest` as a process: what a deployment relies on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "this is test code, though not all in test functions")]

mod support;

use std::process::Stdio;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use support::producer::Producer;
use support::{Ingest, assert_counts_up, given, numbered};
use tokio::process::Command;

fn command(ingest: &Ingest) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herald-ingest"));
    command.env_clear().kill_on_drop(true).stderr(Stdio::piped());
    command
        .env("HERALD_LISTEN", "127.0.0.1:0")
        .env("HERALD_ADMIN_LISTEN", "127.0.0.1:0")
        .env("HERALD_AMQP_URL", given("HERALD_TEST_AMQP_URL"))
        .env("HERALD_REDIS_URL", &ingest.redis_url)
        .env("HERALD_REDIS_PREFIX", &ingest.name)
        .env("HERALD_LOG_ENTRIES_MAX", "1000000")
        .env("HERALD_QUEUE", &ingest.name)
        .env("HERALD_DEAD_LETTER", format!("{}.dead", ingest.name));
    command
}

#[tokio::test]
async fn sigterm_finishes_what_was_taken_and_leaves_the_rest() {
    let mut ingest = Ingest::new("sigterm").await;
    // declares the queue, so that there is a backlog when the process starts
    ingest.started().await;
    ingest.stop().await;
    let producer = Producer::connect(&given("HERALD_TEST_AMQP_URL"), &ingest.name).await;
    let total = 30_000;
    // no ids: what came twice would be there twice
    producer.send((0..total).map(|n| (numbered("a", n), BasicProperties::default()))).await;
    let child = command(&ingest).spawn().unwrap();
    ingest.until_logged("a", 1).await;
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let output = child.wait_with_output().await.unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{log}");
    let logged = Ingest::numbers(&ingest.log("a").await);
    let left = producer.purge(&ingest.name).await as usize;
    assert_counts_up(&logged, logged.len() as u64, "logged");
    assert_eq!(logged.len() + left, total as usize, "{log}");
    assert!(left > 0, "it was stopped before it was through");
}

#[tokio::test]
async fn a_queue_with_other_arguments_ends_it_with_a_line_that_says_which() {
    let ingest = Ingest::new("code").await;
    let producer = Producer::connect(&given("HERALD_TEST_AMQP_URL"), &ingest.name).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(600_000));
    producer.declare(&ingest.name, arguments).await;
    let output = command(&ingest).output().await.unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("inequivalent arg 'x-"), "{log}");
    assert!(log.contains("HERALD_QUEUE_DECLARE=passive"), "{log}");
    // the queue of the first version is drained when it is taken as it is, once there is a dead-letter queue
    let mut other = Ingest::new("code-owner").await;
    other.queue().dead_letter = format!("{}.dead", ingest.name);
    other.started().await;
    other.stop().await;
    producer.send_one(&numbered("a", 1), BasicProperties::default()).await;
    let passive = command(&ingest).env("HERALD_QUEUE_DECLARE", "passive").spawn().unwrap();
    ingest.until_logged("a", 1).await;
    drop(passive);
}

#[tokio::test]
async fn everything_wrong_with_the_settings_is_told_at_once() {
    let output = Command::new(env!("CARGO_BIN_EXE_herald-ingest"))
        .env_clear()
        .env("HERALD_AMQP_URL", "http://rabbit:secret@host")
        .env("HERALD_WINDOW", "0")
        .env("HERALD_QUEUE_TTL_MS", "-1")
        .env("HERALD_QUEUE_TYPE", "stream")
        .output()
        .await
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{log}");
    for setting in
        ["HERALD_AMQP_URL", "HERALD_REDIS_URL", "HERALD_WINDOW", "HERALD_QUEUE_TTL_MS", "HERALD_QUEUE_TYPE"]
    {
        assert!(log.contains(setting), "{setting} in {log}");
    }
    assert!(!log.contains("secret"), "{log}");
    let output = Command::new(env!("CARGO_BIN_EXE_herald-ingest"))
        .env_clear()
        .env("HERALD_AMQP_URL", "amqp://rabbit:secret@host:99999")
        .env("HERALD_REDIS_URL", "redis://host")
        .env("HERALD_DEAD_LETTER", "herald.messages")
        .output()
        .await
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("HERALD_AMQP_URL") && log.contains("HERALD_DEAD_LETTER"), "{log}");
    assert!(!log.contains("secret"), "{log}");
}
