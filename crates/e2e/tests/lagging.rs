//! A reader that stops reading, under load: bounded memory, nobody else slowed, nothing reliable lost, in order; past
//! retention one gap, and it stays connected.

use herald_e2e::herald::{reliable, to_group};
use herald_e2e::{Balancer, Herald, PlainClient, Producer, Value, json};

/// Of each socket on the stalled reader's way.
const BUFFERS: u32 = 4_096;

fn message(number: usize) -> Value {
    let mut message = reliable(to_group("g", number));
    // sixteen fill the outbox
    message["pad"] = json!("x".repeat(4_000));
    message
}

async fn send(producer: &Producer, numbers: std::ops::Range<usize>) {
    let messages: Vec<Value> = numbers.map(message).collect();
    producer.send_all(&messages).await;
}

fn herald(name: &str, entries_max: &str) -> Herald {
    Herald::named(name)
        .edges(1)
        .registries(0)
        .set("edge", "HERALD_OUTBOX_BYTES", "65536")
        .set("ingest", "HERALD_LOG_ENTRIES_MAX", entries_max)
        .start()
}

fn numbers(range: std::ops::Range<usize>) -> Vec<Value> {
    range.map(Value::from).collect()
}

/// The peak of what the process had in memory, in kB.
fn memory(herald: &Herald) -> f64 {
    herald.edges[0].metrics().sum("process_resident_memory_bytes", &[]) / 1_024.0
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_readers_cost_bounded_memory_and_nobody_else_and_get_everything_later() {
    const COUNT: usize = 3_000;
    const STALLED: usize = 80; // more than logs are read at once
    let herald = herald("stalled", "10000");
    let balancer = Balancer::narrow(&[herald.edge(0)], Some(BUFFERS));
    let mut stalled: Vec<PlainClient> = Vec::new();
    for _ in 0..STALLED {
        let mut client = PlainClient::connect(balancer.listen).await;
        client.register(json!({"groupFlag": "g"})).await;
        client.stall();
        stalled.push(client);
    }
    let mut reading = PlainClient::open(herald.edge(0), "/ws");
    let pid = reading.inbox.next("hello").await["pid"].take();
    reading.register(json!({"groupFlag": "g"})).await;
    let before = memory(&herald);
    let producer = herald.producer().await;
    send(&producer, 0..COUNT / 2).await;
    assert_eq!(reading.inbox.data_of(COUNT / 2 - 1).await, numbers(0..COUNT / 2 - 1));
    let cursor = reading.inbox.delivery().await.cursor;
    // all of those who do not read lag; whoever comes back is brought up to date all the same
    Herald::wait_at_least(&herald.edges, "herald_edge_lagged_total", &[], STALLED as f64);
    reading.cut();
    send(&producer, COUNT / 2..COUNT).await;
    let mut reading = PlainClient::connect(herald.edge(0)).await;
    reading.send(&json!({"type": "resume", "pid": pid, "cursor": cursor}));
    assert_eq!(reading.inbox.data_of(COUNT / 2).await, numbers(COUNT / 2..COUNT));
    let grown = memory(&herald) - before;
    assert!(grown < 60_000.0, "{STALLED} readers behind by {COUNT} messages of 4 kB cost {grown} kB");
    for client in &mut stalled {
        client.go_on();
    }
    for client in &mut stalled {
        assert_eq!(client.inbox.data_of(COUNT).await, numbers(0..COUNT), "all, in order, none twice");
        assert_eq!(client.inbox.unasked("gap"), Vec::<Value>::new());
        assert_eq!(client.inbox.unasked("closed"), Vec::<Value>::new());
    }
    send(&producer, COUNT..COUNT + 1).await;
    for client in &mut stalled {
        assert_eq!(client.inbox.data().await, COUNT, "live again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn past_retention_a_reader_is_told_each_gap_once_and_stays_connected() {
    const COUNT: usize = 2_000;
    let herald = herald("stalled-past", "100");
    let balancer = Balancer::narrow(&[herald.edge(0)], Some(BUFFERS));
    let mut client = PlainClient::connect(balancer.listen).await;
    client.register(json!({"groupFlag": "g"})).await;
    let producer = herald.producer().await;
    send(&producer, 0..1).await;
    assert_eq!(client.inbox.data().await, 0);
    client.stall();
    send(&producer, 1..COUNT).await;
    Herald::wait_sum(&herald.ingests, "herald_ingest_published_total", &[], COUNT as f64);
    Herald::wait_at_least(&herald.edges, "herald_edge_lagged_total", &[], 1.0);
    client.go_on();
    send(&producer, COUNT..COUNT + 1).await;
    let mut got = vec![client.inbox.data().await.as_u64().expect("a number")];
    while got.last() != Some(&(COUNT as u64)) {
        got.push(client.inbox.data().await.as_u64().expect("a number"));
    }
    let jumps: Vec<_> = got.windows(2).filter(|pair| pair[1] != pair[0] + 1).collect();
    let gaps = client.inbox.unasked("gap");
    for gap in &gaps {
        assert_eq!(gap["target"], json!({"group": "g"}), "{gap}");
        assert!(gap["from"].as_u64() <= gap["to"].as_u64(), "{gap}");
    }
    assert!(!gaps.is_empty());
    assert_eq!(jumps.len(), gaps.len(), "in order, and each hole was told once: {jumps:?} {gaps:?}");
    assert_eq!(client.inbox.unasked("closed"), Vec::<Value>::new());
}
