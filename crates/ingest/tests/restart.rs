//! Ingest while its brokers come late, freeze, are killed and come back: what goes in comes out, each once.

#![allow(clippy::unwrap_used, reason = "this is test code, though not all in test functions")]

mod support;

use lapin::BasicProperties;
use support::broker::Broker;
use support::producer::Producer;
use support::{Ingest, assert_counts_up, given, numbered, until};

fn with_id(number: u64) -> (String, BasicProperties) {
    (numbered("a", number), BasicProperties::default().with_message_id(format!("m{number}").into()))
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_rabbitmq_end_in_every_way_and_each_message_is_published_once() {
    let (rabbitmq, redis) = (Broker::start("rabbitmq").await, Broker::start("redis").await);
    let mut ingest = Ingest::on("rabbitmq", &rabbitmq.url, &redis.url).await;
    // neither is up when ingest starts
    rabbitmq.act("stop").await;
    redis.act("stop").await;
    ingest.start().await;
    until("both are missed", async || (ingest.waits_for() == ["amqp", "bus"]).then_some(())).await;
    redis.act("start").await;
    rabbitmq.act("start").await;
    ingest.until_ready().await;

    let mut sent = 0;
    for end in ["close", "kill", "stop"] {
        let producer = Producer::connect(&rabbitmq.url, &ingest.name).await;
        // with Redis silent, ingest holds what it was given: all of that comes a second time
        redis.act("freeze").await;
        producer.send((sent..sent + 3_000).map(with_id)).await;
        sent += 3_000;
        until("Redis is missed", async || ingest.waits_for().contains(&"bus").then_some(())).await;
        drop(producer);
        match end {
            "close" => drop(rabbitmq.ctl(&["close_all_connections", "a test"]).await),
            action => {
                rabbitmq.act(action).await;
                until("RabbitMQ is missed", async || ingest.waits_for().contains(&"amqp").then_some(()))
                    .await;
                rabbitmq.act("start").await;
            }
        }
        redis.act("thaw").await;
        let log = ingest.until_logged("a", sent as usize).await;
        let mut numbers = Ingest::numbers(&log);
        if end != "close" {
            // a quorum queue that comes back may hand out what it had not handed out before what it had
            numbers.sort_unstable();
        }
        assert_counts_up(&numbers, sent, end);
    }
    ingest.until_ready().await;
    ingest.stop().await;
    let producer = Producer::connect(&rabbitmq.url, &ingest.name).await;
    assert!(producer.empty(&ingest.name).await.is_empty(), "all of them were acknowledged");
    assert!(producer.empty(&format!("{}.dead", ingest.name)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_killed_under_load_and_nothing_is_lost_or_doubled() {
    let redis = Broker::start("redis").await;
    let amqp_url = given("HERALD_TEST_AMQP_URL");
    let mut ingest = Ingest::on("redis", &amqp_url, &redis.url).await;
    ingest.started().await;
    let producer = Producer::connect(&amqp_url, &ingest.name).await;
    let total = 40_000;
    let sending = tokio::spawn(async move {
        for chunk in 0..total / 500 {
            // no ids: ingest's own names for the deliveries must do
            let numbers = chunk * 500..(chunk + 1) * 500;
            producer.send(numbers.map(|n| (numbered("a", n), BasicProperties::default()))).await;
        }
        producer
    });
    ingest.until_logged("a", 1_000).await;
    for action in ["kill", "stop"] {
        redis.act(action).await;
        redis.act("start").await;
        let so_far = ingest.log("a").await.len();
        ingest.until_logged("a", (so_far + 500).min(total as usize)).await;
    }
    let producer = sending.await.unwrap();
    let log = ingest.until_logged("a", total as usize).await;
    assert_counts_up(&Ingest::numbers(&log), total, "in the end");
    ingest.stop().await;
    assert!(producer.empty(&ingest.name).await.is_empty());
}
