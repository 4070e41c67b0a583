//! The ledger: whatever an ingest consumed and an edge was offered has exactly one end, and the sums say so under faults.

use herald_e2e::herald::{reliable, to_group, to_socket};
use herald_e2e::{
    Balancer, Broker, Herald, PlainClient, Process, Producer, Value, json, until, until_blocking,
};
use lapin::BasicProperties;

/// The ends of a message at ingest; `shed` is one under overload.
const ENDS: [&str; 7] =
    ["published", "duplicates", "dead_lettered", "rejected", "unanswered", "returned", "shed"];

/// Waits until every message that this ingest took in has its end.
fn ingest_is_even(ingest: &Process) -> f64 {
    until_blocking(&format!("{}'s ledger is even", ingest.name), || {
        let metrics = ingest.metrics();
        let total = |name: &str| metrics.sum(&format!("herald_ingest_{name}_total"), &[]);
        let done: f64 = ENDS.iter().map(|end| total(end)).sum();
        let at_rest = metrics.sum("herald_ingest_in_flight_messages", &[]) == 0.0;
        (at_rest && total("consumed") == done).then_some(done)
    })
}

/// Waits until every message that was some connection's to deliver was delivered, dropped or abandoned with it.
fn edge_is_even(edge: &Process) {
    for class in ["volatile", "reliable"] {
        let what = format!("{}'s ledger of {class} messages is even", edge.name);
        until_blocking(&what, || {
            let metrics = edge.metrics();
            let of = |name: &str| metrics.sum(&format!("herald_edge_{name}_total"), &[("class", class)]);
            // only volatile ones are ever dropped
            let dropped =
                if class == "volatile" { metrics.sum("herald_edge_dropped_total", &[]) } else { 0.0 };
            (of("offered") == of("delivered") + of("abandoned") + dropped).then_some(())
        });
    }
}

fn padded(mut message: Value) -> Value {
    message["pad"] = json!("x".repeat(8_000));
    message
}

/// Of each dozen, two that cannot be delivered, one that comes twice, one to the client that does not read, three volatile
/// ones, and five reliable ones.
async fn send(producer: &Producer, number: usize) {
    let id = BasicProperties::default().with_message_id(format!("m{number}").as_str().into());
    match number % 12 {
        0 => producer.send_bytes("not JSON", BasicProperties::default()).await,
        1 => producer.send_with(&to_group("g", 0), id.with_expiration("0".into())).await,
        2 => {
            let message = reliable(json!({"socketGroupFlag": ["g", "h"], "data": number}));
            producer.send_with(&message, id.clone()).await;
            producer.send_with(&message, id).await;
        }
        3..6 => producer.send(&padded(to_group("g", number))).await,
        6 => producer.send(&reliable(to_socket("slow", number))).await,
        _ => producer.send_with(&padded(reliable(to_group("g", number))), id).await,
    }
}

fn fault(redis: &Broker, number: usize) {
    match number {
        1 => redis.freeze(),
        2 => redis.thaw(),
        3 => drop(redis.ctl(&["client", "kill", "type", "pubsub"])),
        4 => {
            redis.kill();
            redis.start();
        }
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sums_are_even_under_faults() {
    const COUNT: usize = 1_200;
    let (redis, rabbitmq) = (Broker::redis(), Broker::rabbitmq());
    let herald = Herald::on("ledger", &redis.url, &rabbitmq.url)
        .ingests(2)
        .edges(2)
        .registries(1)
        .set("edge", "HERALD_OUTBOX_BYTES", "65536")
        .start();
    let mut reading = Vec::new();
    for edge in [0, 1, 0, 1] {
        reading.push(PlainClient::registered(herald.edge(edge), json!({"groupFlag": ["g", "h"]})).await);
    }
    let narrow = Balancer::narrow(&[herald.edge(0)], Some(4_096));
    let stalled = PlainClient::registered(narrow.listen, json!({"socketId": "slow", "groupFlag": "g"})).await;
    stalled.stall();
    let producer = herald.producer().await;
    for number in 0..COUNT {
        send(&producer, number).await;
        if number % (COUNT / 6) == 0 {
            fault(&redis, number * 6 / COUNT);
        }
    }
    narrow.cut();
    producer.send(&reliable(to_group("g", "end"))).await;
    let end = |message: &Value| message["message"]["data"] == "end";
    let mut got = reading.len();
    for client in &mut reading {
        client.inbox.next_where("message", end).await;
    }
    // the last message may be done while another ingest has not taken all that it was given
    until_blocking("each message is done once", || {
        let done: f64 = herald.ingests.iter().map(ingest_is_even).sum();
        // what was returned was consumed again
        let returned = Herald::sum(&herald.ingests, "herald_ingest_returned_total", &[]);
        (done - returned == (COUNT + COUNT / 12 + 1) as f64).then_some(())
    });
    let due = reading.len() * (COUNT / 12 + 5 * COUNT / 12 + 1);
    until("each client has each reliable message", async || {
        for client in &mut reading {
            got += client.inbox.everything().iter().filter(|event| event["cursor"].is_string()).count();
        }
        (got >= due).then_some(())
    })
    .await;
    for (end, count) in [("duplicates", COUNT / 12), ("dead_lettered", 2 * COUNT / 12)] {
        let name = format!("herald_ingest_{end}_total");
        assert_eq!(Herald::sum(&herald.ingests, &name, &[]), count as f64, "{end}");
    }
    herald.edges.iter().for_each(edge_is_even);
    let delivered = Herald::sum(&herald.edges, "herald_edge_delivered_total", &[("class", "reliable")]);
    let abandoned = Herald::sum(&herald.edges, "herald_edge_abandoned_total", &[]);
    let dropped = Herald::sum(&herald.edges, "herald_edge_dropped_total", &[]);
    let lagged = Herald::sum(&herald.edges, "herald_edge_lagged_total", &[]);
    assert!(delivered >= got as f64, "delivered {delivered}, and clients have {got}");
    assert!(
        abandoned > 0.0 && dropped > 0.0 && lagged > 0.0,
        "{abandoned} {dropped} {lagged}: nothing was tried"
    );
    assert_eq!(got, due, "each client has each reliable message once");
}
