//! Overload stays flat: what an edge cannot take waits in RabbitMQ, and neither in a process nor in Redis. What is held
//! here are bounds and accounts, not times.

#![allow(clippy::expect_used, reason = "this is test code, though not all in test functions")]

use std::time::Duration;

use herald_e2e::herald::{reliable, to_group};
use herald_e2e::producer::sent_now;
use herald_e2e::{Brokers, Herald, PlainClient, Process, Producer, Signal, Value, json, until};

const MEMBERS: usize = 40;
const RELIABLE: usize = 3_000;
/// One volatile message after so many reliable ones.
const VOLATILE_EVERY: usize = 20;
const MIB: f64 = 1_048_576.0;

/// What may wait outside of RabbitMQ while an edge is too slow: a second or so of what it takes.
const FEED_MESSAGES_MAX: f64 = 1_500.0;
const REDIS_BUFFER_MAX: u64 = 4 << 20;
/// Ingest holds what RabbitMQ may hand over, an edge what waits in its queues and outboxes.
const GROWTH_MAX: f64 = 48.0 * MIB;

fn memory(process: &Process) -> f64 {
    process.metrics().sum("process_resident_memory_bytes", &[])
}

/// The largest output buffer on Redis of the feeds of this Herald.
fn redis_buffer(herald: &Herald) -> u64 {
    let name = format!("name={}:feed", herald.queue);
    let list = Brokers::shared().redis.ctl(&["CLIENT", "LIST", "TYPE", "pubsub"]);
    let ours: Vec<&str> = list.lines().filter(|line| line.contains(&name)).collect();
    assert!(!ours.is_empty(), "no feed is called {name}: {list}");
    let size = |line: &str| line.split(' ').find_map(|field| field.strip_prefix("omem=")?.parse().ok());
    ours.into_iter().filter_map(size).max().unwrap_or(0)
}

/// The sentence on flow in ingest's `/readyz`.
fn flow_note(ingest: &Process) -> String {
    let (_, body) = ingest.admin_get("/readyz").expect("/readyz answers");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    body["notes"]["flow"].as_str().unwrap_or_default().to_owned()
}

/// Reliable messages numbered from 0, and volatile ones between them, all before ingest takes the first: however fast
/// this machine is, they are more than the edge can take.
async fn offer(producer: &Producer, ingest: &Process) {
    ingest.signal(Signal::Stop);
    let mut messages = Vec::with_capacity(RELIABLE + RELIABLE / VOLATILE_EVERY);
    for n in 0..RELIABLE {
        if n % VOLATILE_EVERY == 0 {
            messages.push((to_group("g", "volatile"), sent_now()));
        }
        messages.push((reliable(to_group("g", n)), sent_now()));
    }
    producer.send_all_with(messages).await;
    ingest.signal(Signal::Cont);
}

/// Looks at everything that must stay flat until nothing waits in RabbitMQ any more, or `enough` was seen.
async fn watch(herald: &Herald, producer: &Producer, before: (f64, f64)) {
    let (edge, ingest) = (&herald.edges[0], &herald.ingests[0]);
    until("the edge is late, ingest slows down, and RabbitMQ holds the rest", async || {
        let feed = edge.metrics().sum("herald_bus_feed_waiting_messages", &[]);
        assert!(feed <= FEED_MESSAGES_MAX, "{feed} messages wait in the edge's feed");
        let buffer = redis_buffer(herald);
        assert!(buffer <= REDIS_BUFFER_MAX, "Redis holds {buffer} bytes for the edge");
        let grown = (memory(edge) - before.0, memory(ingest) - before.1);
        assert!(grown.0 <= GROWTH_MAX && grown.1 <= GROWTH_MAX, "edge and ingest grew by {grown:?}");
        let metrics = ingest.metrics();
        let cuts = metrics.sum("herald_ingest_window_cuts_total", &[("cause", "edge_late")]);
        let shed = metrics.sum("herald_ingest_shed_total", &[]);
        let waits = producer.waiting().await;
        (cuts >= 1.0 && shed >= 1.0 && waits > 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_edge_cannot_take_waits_in_rabbitmq_and_nothing_reliable_is_lost() {
    let herald = Herald::named("overload")
        .edges(1)
        .set("ingest", "HERALD_WINDOW", "50")
        // an edge that stands still for 47 of 50 ms is later than that, on however fast a machine
        .set("ingest", "HERALD_LATENESS_TARGET_MS", "50")
        .start();
    let mut members = Vec::new();
    for _ in 0..MEMBERS {
        members.push(PlainClient::registered(herald.edge(0), json!({"groupFlag": "g"})).await);
    }
    let producer = herald.producer().await;
    let (edge, ingest) = (&herald.edges[0], &herald.ingests[0]);
    let before = (memory(edge), memory(ingest));
    assert!(flow_note(ingest).starts_with("nothing is held back"), "{}", flow_note(ingest));

    let slowed = edge.slowed(Duration::from_millis(3));
    offer(&producer, ingest).await;
    watch(&herald, &producer, before).await;
    let note = flow_note(ingest);
    assert!(note.starts_with("messages wait") && note.contains(&herald.edge_url(0)), "{note}");
    drop(slowed);

    let wanted: Vec<usize> = (0..RELIABLE).collect();
    let mut volatile = Vec::new();
    for member in &mut members {
        let mut got = Vec::with_capacity(RELIABLE);
        let mut others = 0;
        while got.len() < RELIABLE {
            match member.inbox.data().await.as_u64() {
                Some(number) => got.push(number as usize),
                None => others += 1,
            }
        }
        assert!(got == wanted, "each once and in order");
        volatile.push(others);
    }
    let sent = RELIABLE / VOLATILE_EVERY;
    let metrics = ingest.metrics();
    let shed = metrics.sum("herald_ingest_shed_total", &[]) as usize;
    let published = metrics.sum("herald_ingest_published_total", &[("class", "volatile")]) as usize;
    // the last of them may still be on its way to some
    assert!(
        volatile.iter().all(|got| (published - 1..=published).contains(got)),
        "{volatile:?} of {published}"
    );
    assert_eq!(shed + published, sent);
    assert_eq!(edge.metrics().sum("herald_bus_feed_dropped_total", &[]), 0.0);
    assert_eq!(edge.metrics().sum("herald_edge_lagged_total", &[]), 0.0, "no client was to blame");
    until("nothing is held back any more", async || {
        flow_note(ingest).starts_with("nothing is held back").then_some(())
    })
    .await;
    assert_eq!(producer.waiting().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_longer_than_its_time_reaches_the_dead_letter_queue() {
    let herald = Herald::named("expiry")
        .edges(1)
        .set("ingest", "HERALD_WINDOW", "50")
        .set("ingest", "HERALD_QUEUE_TTL_MS", "500")
        .start();
    let mut members = Vec::new();
    for _ in 0..MEMBERS {
        members.push(PlainClient::registered(herald.edge(0), json!({"groupFlag": "g"})).await);
    }
    let producer = herald.producer().await;
    let slowed = herald.edges[0].slowed(Duration::from_millis(5));
    let all: Vec<Value> = (0..RELIABLE).map(|n| reliable(to_group("g", n))).collect();
    producer.send_all(&all).await;
    until("some expire in RabbitMQ", async || {
        (producer.waiting_in(&herald.dead_letters).await > 0).then_some(())
    })
    .await;
    drop(slowed);
    let mut got = Vec::new();
    until("each is delivered or a dead letter", async || {
        got.extend(
            members[0].inbox.unasked("message").into_iter().map(|event| event["message"]["data"].as_u64()),
        );
        let dead = producer.waiting_in(&herald.dead_letters).await as usize;
        assert!(got.len() + dead <= RELIABLE, "{} delivered, {dead} dead", got.len());
        (got.len() + dead == RELIABLE).then_some(())
    })
    .await;
    assert!(got.is_sorted() && got.iter().all(Option::is_some));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_slow_nobody_down() {
    // a machine that is busy with other tests must not look like a late edge: what waits for these clients is older
    let herald = Herald::named("stalled").edges(1).set("ingest", "HERALD_LATENESS_TARGET_MS", "1500").start();
    let stalled: Vec<_> =
        (0..4).map(|_| PlainClient::stalled(herald.edge(0), json!({"groupFlag": "g"}))).collect();
    let mut reader = PlainClient::registered(herald.edge(0), json!({"groupFlag": "g"})).await;
    let producer = herald.producer().await;
    let (edge, ingest) = (&herald.edges[0], &herald.ingests[0]);
    let text = "x".repeat(100_000);
    let message = |n: usize| reliable(to_group("g", json!({"n": n, "text": text})));
    let mut sent = 0;
    until("all that do not read lag, for longer than an edge may be late", async || {
        let some: Vec<Value> = (sent..sent + 10).map(message).collect();
        producer.send_all(&some).await;
        for n in sent..sent + 10 {
            assert_eq!(reader.inbox.data().await["n"], n);
        }
        sent += 10;
        (edge.metrics().sum("herald_edge_lagged_total", &[]) >= stalled.len() as f64).then_some(())
    })
    .await;
    let lag_until = tokio::time::Instant::now() + Duration::from_secs(3);
    while tokio::time::Instant::now() < lag_until {
        producer.send(&message(sent)).await;
        assert_eq!(reader.inbox.data().await["n"], sent);
        sent += 1;
    }
    let metrics = ingest.metrics();
    assert_eq!(metrics.sum("herald_ingest_window_cuts_total", &[]), 0.0);
    assert!(metrics.sum("herald_ingest_window_messages", &[]) >= 256.0);
    assert!(flow_note(ingest).starts_with("nothing is held back"), "{}", flow_note(ingest));
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_registry_ingest_goes_on_cautiously() {
    let mut herald = Herald::named("blind").edges(1).start();
    let mut client = PlainClient::registered(herald.edge(0), json!({"groupFlag": "g"})).await;
    let note = |herald: &Herald, words: &str| flow_note(&herald.ingests[0]).contains(words).then_some(());
    until("the registry is heard", async || note(&herald, "nothing is held back")).await;
    herald.registries[0].kill();
    until("it is not heard any more", async || note(&herald, "does not say how the edges are")).await;
    assert!(herald.ingests[0].is_ready());
    let producer = herald.producer().await;
    let messages: Vec<Value> = (0..500).map(|n| reliable(to_group("g", n))).collect();
    producer.send_all(&messages).await;
    assert_eq!(client.inbox.data_of(500).await, (0..500).map(Value::from).collect::<Vec<_>>());
    herald.registries[0].start();
    until("it is heard again", async || note(&herald, "nothing is held back")).await;
}
