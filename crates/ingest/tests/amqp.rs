//! Ingest beside a real RabbitMQ and Redis: what reaches the logs, and what reaches the dead-letter queue.

#![allow(clippy::unwrap_used, reason = "this is test code, though not all in test functions")]

mod support;

use herald_ingest::source::queue::{Declare, QueueType};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use support::producer::{Producer, Taken};
use support::{Ingest, assert_counts_up, given, numbered, until};

async fn producer(ingest: &Ingest) -> Producer {
    Producer::connect(&given("HERALD_TEST_AMQP_URL"), &ingest.name).await
}

fn dead(ingest: &Ingest) -> String {
    format!("{}.dead", ingest.name)
}

fn plain() -> BasicProperties {
    BasicProperties::default()
}

fn now_ms() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64
}

#[tokio::test]
async fn messages_reach_every_target_in_order_and_leave_the_queue() {
    for queue_type in [QueueType::Quorum, QueueType::Classic] {
        let mut ingest = Ingest::new("order").await;
        ingest.queue().queue_type = queue_type;
        ingest.started().await;
        let producer = producer(&ingest).await;
        let both = |number| format!(r#"{{"socketSessionId":["a","b"],"isVolatile":false,"data":{number}}}"#);
        let messages = (0..3_000).map(|n| if n % 3 == 0 { both(n) } else { numbered("a", n) });
        producer.send(messages.map(|body| (body, plain()))).await;
        let log = ingest.until_logged("a", 3_000).await;
        assert_counts_up(&Ingest::numbers(&log), 3_000, "a");
        let log_b = ingest.until_logged("b", 1_000).await;
        assert_eq!(Ingest::numbers(&log_b), (0..3_000).step_by(3).collect::<Vec<_>>());
        assert_eq!(log[3].copies_id, log_b[1].copies_id);
        assert_ne!(log[3].copies_id, 0);
        assert_eq!(log[1].copies_id, 0);
        ingest.stop().await;
        assert!(producer.empty(&ingest.name).await.is_empty(), "all of them were acknowledged");
        assert!(producer.empty(&dead(&ingest)).await.is_empty());
    }
}

#[tokio::test]
async fn the_envelope_carries_what_the_properties_say() {
    let mut ingest = Ingest::new("properties").await;
    ingest.started().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), AMQPValue::LongString(trace.into()));
    let sent_ms = now_ms() - 1_500;
    headers.insert("timestamp_in_ms".into(), AMQPValue::LongLongInt(sent_ms as i64));
    let properties = plain()
        .with_message_id("m1".into())
        .with_timestamp(sent_ms / 1_000)
        .with_expiration("60000".into())
        .with_headers(headers);
    producer(&ingest).await.send_one(&numbered("a", 1), properties).await;
    let envelope = &ingest.until_logged("a", 1).await[0];
    assert_eq!((envelope.message_id.as_str(), envelope.traceparent.as_str()), ("m1", trace));
    assert_eq!(envelope.sent_at_us, sent_ms * 1_000);
    assert_eq!(envelope.expires_at_ms, sent_ms + 60_000);
    assert!(envelope.received_at_us > envelope.sent_at_us);
    assert!(envelope.published_at_us >= envelope.received_at_us);
    ingest.stop().await;
}

#[tokio::test]
async fn a_message_id_is_published_once_and_its_absence_is_no_id() {
    let mut ingest = Ingest::new("dedup").await;
    ingest.started().await;
    let producer = producer(&ingest).await;
    let id = |id: &str| plain().with_message_id(id.into());
    let messages = [
        (numbered("a", 1), id("m1")),
        (numbered("a", 2), id("m1")),
        (numbered("a", 3), id("m2")),
        (numbered("a", 4), plain()),
        (numbered("a", 4), plain()),
        (numbered("a", 5), id("m1")),
        (numbered("a", 6), plain()),
    ];
    producer.send(messages).await;
    assert_eq!(Ingest::numbers(&ingest.until_logged("a", 5).await), [1, 3, 4, 4, 6]);
    ingest.stop().await;
    assert!(producer.empty(&ingest.name).await.is_empty());
}

#[tokio::test]
async fn what_cannot_be_published_is_dead_lettered_with_the_reason() {
    let mut ingest = Ingest::new("dead").await;
    ingest.config.rules.limits.message_bytes_max = 300;
    ingest.config.rules.limits.message_id_bytes_max = 40;
    ingest.started().await;
    let producer = producer(&ingest).await;
    let mut late = FieldTable::default();
    late.insert("timestamp_in_ms".into(), AMQPValue::LongLongInt(now_ms() as i64 - 60_000));
    late.insert("mine".into(), AMQPValue::LongString("kept".into()));
    let mut huge = FieldTable::default();
    huge.insert("huge".into(), AMQPValue::LongString("x".repeat(100_000).into()));
    let targets = vec!["x"; 1_001];
    let rows: Vec<(String, BasicProperties, &str)> = vec![
        ("{".into(), plain(), "malformed"),
        ("\u{0}".into(), plain().with_user_id("guest".into()), "malformed"),
        (r#"{"data":1}"#.into(), plain().with_app_id("shop".into()), "no_target"),
        (r#"{"socketGroupFlag":""}"#.into(), plain().with_correlation_id("c".into()), "invalid_target"),
        (serde_json::json!({ "socketGroupFlag": targets }).to_string(), plain(), "too_large"),
        (numbered("a", 1) + &" ".repeat(300), plain(), "too_large"),
        (numbered("a", 1), plain().with_message_id("m".repeat(41).into()), "invalid_message_id"),
        (numbered("a", 1), plain().with_expiration("30000".into()).with_headers(late), "expired"),
        ("[]".into(), plain().with_headers(huge), "malformed"),
    ];
    for (body, properties, reason) in rows {
        producer.send_one(&body, properties.clone()).await;
        let letter = producer.take(&dead(&ingest)).await;
        assert_eq!(letter.header("x-herald-reason").as_deref(), Some(reason));
        assert_eq!(letter.header("x-herald-queue"), Some(ingest.name.clone()));
        assert!(letter.header("x-herald-detail").is_some_and(|text| text.len() > 10));
        assert_eq!(letter.body, body.as_bytes());
        check_properties(&letter, &properties);
    }
    // what is fine passes between them
    producer.send_one(&numbered("a", 7), plain()).await;
    assert_eq!(Ingest::numbers(&ingest.until_logged("a", 1).await), [7]);
    ingest.stop().await;
    assert!(producer.empty(&ingest.name).await.is_empty(), "dead letters were acknowledged");
    assert!(producer.empty(&dead(&ingest)).await.is_empty(), "each was dead-lettered once");
}

fn check_properties(letter: &Taken, original: &BasicProperties) {
    let dead = &letter.properties;
    assert_eq!(dead.message_id(), original.message_id());
    assert_eq!(dead.app_id(), original.app_id());
    assert_eq!(dead.correlation_id(), original.correlation_id());
    assert_eq!((dead.expiration(), dead.user_id(), dead.delivery_mode()), (&None, &None, &Some(2)));
    if original.user_id().is_some() {
        assert_eq!(letter.header("x-herald-user-id").as_deref(), Some("guest"));
    }
    if original.expiration().is_some() {
        assert_eq!(letter.header("x-herald-expiration").as_deref(), Some("30000"));
        assert_eq!(letter.header("mine").as_deref(), Some("kept"));
    }
    if original.headers().as_ref().is_some_and(|headers| headers.contains_key("huge")) {
        assert!(letter.header("x-herald-headers-left-out").is_some());
    }
}

#[tokio::test]
async fn a_flood_of_what_cannot_be_published_is_dead_lettered_whole() {
    let mut ingest = Ingest::new("flood").await;
    ingest.config.amqp.as_mut().unwrap().prefetch = 100;
    ingest.started().await;
    let producer = producer(&ingest).await;
    let body = |n: u64| if n.is_multiple_of(10) { numbered("a", n) } else { format!("bad {n}") };
    producer.send((0..2_000).map(|n| (body(n), plain()))).await;
    assert_eq!(ingest.until_logged("a", 200).await.len(), 200);
    for n in (0..2_000_u64).filter(|n| !n.is_multiple_of(10)) {
        assert_eq!(producer.take(&dead(&ingest)).await.body, format!("bad {n}").into_bytes());
    }
    ingest.stop().await;
    assert!(producer.empty(&ingest.name).await.is_empty());
}

#[tokio::test]
async fn what_expires_in_the_queue_reaches_the_dead_letter_queue_too() {
    for queue_type in [QueueType::Quorum, QueueType::Classic] {
        let mut ingest = Ingest::new("ttl").await;
        ingest.queue().queue_ttl_ms = 100;
        ingest.queue().queue_type = queue_type;
        ingest.started().await;
        ingest.stop().await;
        let producer = producer(&ingest).await;
        producer.send_one(&numbered("a", 1), plain()).await;
        let letter = producer.take(&dead(&ingest)).await;
        assert_eq!(letter.body, numbered("a", 1).into_bytes());
        assert!(letter.header("x-first-death-reason").is_some_and(|reason| reason == "expired"));
    }
}

#[tokio::test]
async fn without_its_dead_letter_queue_a_letter_waits_and_nothing_is_lost() {
    let mut ingest = Ingest::new("no-dead").await;
    ingest.started().await;
    let producer = producer(&ingest).await;
    producer.send_one("first", plain()).await;
    assert_eq!(producer.take(&dead(&ingest)).await.body, b"first");
    producer.delete(&dead(&ingest)).await;
    producer.send_one("second", plain()).await;
    // unroutable, so a new connection declares it again, and the letter comes
    let letter = until("the dead letter", async || {
        let other = self::producer(&ingest).await;
        let name = dead(&ingest);
        tokio::spawn(async move { other.try_take(&name).await }).await.ok().flatten()
    });
    assert_eq!(letter.await.body, b"second");
    ingest.stop().await;
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_told_at_the_start() {
    let mut ingest = Ingest::new("mismatch").await;
    let mut arguments = FieldTable::default();
    ingest.queue().queue_type = QueueType::Classic;
    arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString(dead(&ingest).into()));
    arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(1_234));
    let producer = producer(&ingest).await;
    producer.declare(&ingest.name, arguments).await;
    ingest.start().await;
    ingest.ctx.shutdown.soft().await;
    let death = ingest.ctx.tasks.death().unwrap().to_string();
    for part in
        [ingest.name.as_str(), "inequivalent arg 'x-message-ttl'", "1234", "HERALD_QUEUE_DECLARE=passive"]
    {
        assert!(death.contains(part), "{death}");
    }
    ingest.ctx.tasks.drain(std::time::Duration::from_secs(20)).await;
}

#[tokio::test]
async fn a_passive_ingest_waits_for_queues_and_takes_them_as_they_are() {
    let mut ingest = Ingest::new("passive").await;
    ingest.queue().declare = Declare::Passive;
    ingest.start().await;
    let reason = until("the reason", async || {
        let report = ingest.ctx.readiness.report().into_iter();
        report.filter_map(|(_, reason)| reason).find(|reason| reason.contains("NOT_FOUND"))
    });
    assert!(reason.await.contains("the exchange"));
    // as another ingest's would be, with one argument that is this deployment's own
    let mut owner = Ingest::new("owner").await;
    owner.queue().queue.clone_from(&ingest.name);
    owner.queue().dead_letter = dead(&ingest);
    owner.queue().queue_ttl_ms = 4_321;
    owner.started().await;
    owner.stop().await;
    ingest.until_ready().await;
    producer(&ingest).await.send_one(&numbered("a", 1), plain()).await;
    ingest.until_logged("a", 1).await;
    ingest.stop().await;
}
