//! The queue's contract: what cannot be delivered goes to the dead-letter queue with its reason, what has expired is
//! not delivered, a queue that is another than expected is told, and every message is accounted for.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use herald_e2e::herald::{reliable, to_socket};
use herald_e2e::process::Process;
use herald_e2e::{Brokers, Herald, PlainClient, Producer, Signal, json, unique, until};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

/// Its limits are low, so that they are easily exceeded.
static HERALD: LazyLock<Herald> = LazyLock::new(|| {
    Herald::named("queue")
        .edges(1)
        .registries(0)
        .set("ingest", "HERALD_MESSAGE_BYTES_MAX", "2000")
        .set("ingest", "HERALD_TARGETS_MAX", "3")
        .set("ingest", "HERALD_ID_BYTES_MAX", "40")
        .start()
});

fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_delivered_goes_to_the_dead_letter_queue_with_the_reason() {
    let me = unique("me");
    let mut client = PlainClient::registered(HERALD.edge(0), json!({"socketId": me})).await;
    let producer = HERALD.producer().await;
    let plain = BasicProperties::default;
    let long = json!({"socketSessionId": me, "data": "x".repeat(2_000)}).to_string();
    let fine = to_socket(&me, "fine").to_string();
    let cases: Vec<(&[u8], BasicProperties, &str)> = vec![
        (b"", plain(), "malformed"),
        (b"{ not json", plain(), "malformed"),
        (b"[1]", plain(), "malformed"),
        (b"\xff\xfe\x00", plain(), "malformed"),
        (br#"{"socketSessionId":7}"#, plain(), "malformed"),
        (br#"{"socketSessionId":"a","isVolatile":"no"}"#, plain(), "malformed"),
        (br#"{"data":"to nobody"}"#, plain(), "no_target"),
        (br#"{"socketGroupFlag":[]}"#, plain(), "no_target"),
        (br#"{"socketGroupFlag":["a","b","c","d"]}"#, plain(), "too_many_targets"),
        (br#"{"socketGroupFlag":""}"#, plain(), "invalid_target"),
        (br#"{"socketSessionId":"0123456789012345678901234567890123456789X"}"#, plain(), "invalid_target"),
        (long.as_bytes(), plain(), "too_large"),
        (fine.as_bytes(), plain().with_message_id("i".repeat(255).as_str().into()), "published"),
        (fine.as_bytes(), plain().with_timestamp(now_s() - 60).with_expiration("1000".into()), "expired"),
    ];
    for (body, properties, reason) in cases {
        let properties = properties.with_content_type("application/json".into()).with_app_id("tester".into());
        producer.send_bytes(body.to_vec(), properties).await;
        if reason == "published" {
            assert_eq!(client.inbox.data().await, "fine");
            continue;
        }
        let letter = producer.take(&HERALD.dead_letters).await;
        let shown = String::from_utf8_lossy(body);
        assert_eq!(letter.body, body, "the body is kept as it was");
        assert_eq!(letter.header("x-herald-reason").as_deref(), Some(reason), "{shown}");
        assert_eq!(letter.header("x-herald-queue").as_ref(), Some(&HERALD.queue), "{shown}");
        assert!(letter.header("x-herald-detail").is_some_and(|text| text.len() > 10), "{shown}");
        assert_eq!(letter.properties.app_id().as_ref().map(ToString::to_string).as_deref(), Some("tester"));
    }
    // nothing was requeued in a loop, and what comes afterwards is delivered
    producer.send(&to_socket(&me, "after them")).await;
    assert_eq!(client.inbox.data().await, "after them");
    for (reason, count) in [("malformed", 6.0), ("no_target", 2.0), ("too_large", 1.0)] {
        Herald::wait_sum(&HERALD.ingests, "herald_ingest_dead_lettered_total", &[("reason", reason)], count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_time_is_over_is_not_delivered_wherever_it_was_waiting() {
    let mut herald = Herald::named("expired").edges(1).registries(0).start();
    let mut client = PlainClient::registered(herald.edge(0), json!({"socketId": "me"})).await;
    let producer = herald.producer().await;
    let soon = || BasicProperties::default().with_expiration("700".into());
    // in the queue, where RabbitMQ drops it
    assert_eq!(herald.ingests[0].terminate(), Some(0));
    producer.send_with(&reliable(to_socket("me", "late in the queue")), soon()).await;
    let letter = producer.take(&herald.dead_letters).await;
    assert_eq!(letter.header("x-first-death-reason").as_deref(), Some("expired"));
    herald.ingests[0].start();
    herald.ingests[0].wait_ready();
    // between ingest and the client: the edge is stopped
    herald.edges[0].signal(Signal::Stop);
    let begin = Instant::now();
    producer.send_with(&to_socket("me", "late volatile"), soon()).await;
    producer.send_with(&reliable(to_socket("me", "late reliable")), soon()).await;
    producer.send(&to_socket("me", "in time")).await;
    Herald::wait_sum(&herald.ingests, "herald_ingest_published_total", &[], 3.0);
    until("their time is over", async || (begin.elapsed() > Duration::from_millis(800)).then_some(())).await;
    herald.edges[0].signal(Signal::Cont);
    assert_eq!(client.inbox.data().await, "in time");
    // and what is in time, with a time to live, arrives
    producer.send_with(&to_socket("me", "timely"), soon()).await;
    assert_eq!(client.inbox.data().await, "timely");
    Herald::wait_sum(&herald.edges, "herald_edge_expired_total", &[], 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_was_declared_otherwise_ends_ingest_with_a_clear_error() {
    let mut herald = Herald::named("mismatch").edges(1).registries(0).build();
    let producer = Producer::connect(&Brokers::shared().rabbitmq.url, &herald.queue).await;
    let ttl = |ms| {
        let mut arguments = FieldTable::default();
        arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(ms));
        arguments
    };
    producer.declare(&herald.queue, ttl(1_000)).await;
    herald.ingests[0].start();
    let status = herald.ingests[0].wait();
    assert_eq!(status.code(), Some(1));
    let log = herald.ingests[0].log();
    for part in [
        &format!("the queue {}", herald.queue),
        "exists with other arguments",
        "HERALD_QUEUE_DECLARE=passive",
    ] {
        assert!(log.contains(part), "no {part:?} in:\n{log}");
    }
    assert!(
        log.contains("x-message-ttl") || log.contains("x-queue-type"),
        "the argument is not named in:\n{log}"
    );
    // taken as it is when that is asked for
    herald.ingests[0].set("HERALD_QUEUE_DECLARE", "passive");
    herald.start();
    herald.wait_ready();
    let mut client = PlainClient::registered(herald.edge(0), json!({"socketId": "me"})).await;
    producer.send(&to_socket("me", 1)).await;
    assert_eq!(client.inbox.data().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_the_wrong_dead_letter_exchange_is_told_too() {
    let mut herald = Herald::named("otherwise").edges(0).registries(0).start();
    assert_eq!(herald.ingests[0].terminate(), Some(0));
    let expect = |ingest: &mut Process, argument: &str| {
        ingest.start();
        assert_eq!(ingest.wait().code(), Some(1));
        assert!(ingest.log().contains(argument), "{argument} is not named in:\n{}", ingest.log());
    };
    herald.ingests[0].set("HERALD_QUEUE_TTL_MS", "1234");
    expect(&mut herald.ingests[0], "x-message-ttl");
    herald.ingests[0].set("HERALD_QUEUE_TTL_MS", "600000");
    herald.ingests[0].set("HERALD_DEAD_LETTER", &unique("elsewhere"));
    expect(&mut herald.ingests[0], "x-dead-letter-exchange");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_is_accounted_for() {
    const COUNT: usize = 200;
    let herald = Herald::named("ledger").edges(1).registries(0).ingests(2).start();
    let mut client = PlainClient::registered(herald.edge(0), json!({"groupFlag": "g"})).await;
    let producer = herald.producer().await;
    let messages: Vec<_> = (0..COUNT)
        .map(|i| match i % 4 {
            0 => json!({"socketGroupFlag": "g", "data": i}),
            1 => json!({"socketGroupFlag": "g", "data": i, "isVolatile": false}),
            2 => json!({"socketSessionId": "nobody", "data": i}),
            _ => json!({"data": "no target"}),
        })
        .collect();
    producer.send_all(&messages).await;
    let mut got: Vec<u64> = client.inbox.data_of(COUNT / 2).await.iter().filter_map(|d| d.as_u64()).collect();
    got.sort_unstable();
    assert_eq!(got, (0..COUNT as u64).filter(|i| i % 4 < 2).collect::<Vec<_>>());
    let ingests = &herald.ingests;
    Herald::wait_sum(ingests, "herald_ingest_consumed_total", &[("source", "amqp")], COUNT as f64);
    Herald::wait_sum(ingests, "herald_ingest_in_flight_messages", &[], 0.0);
    Herald::wait_sum(ingests, "herald_ingest_published_total", &[("class", "volatile")], (COUNT / 2) as f64);
    Herald::wait_sum(ingests, "herald_ingest_published_total", &[("class", "reliable")], (COUNT / 4) as f64);
    Herald::wait_sum(
        ingests,
        "herald_ingest_dead_lettered_total",
        &[("reason", "no_target")],
        (COUNT / 4) as f64,
    );
    Herald::wait_sum(&herald.edges, "herald_edge_delivered_total", &[], (COUNT / 2) as f64);
}
