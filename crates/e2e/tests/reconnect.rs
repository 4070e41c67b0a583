//! What happens when a client's edge or its network goes: the official clients come back by their own logic, on another
//! edge behind the same balancer, and are sent what is for them.

use herald_e2e::herald::{reliable, to_group, to_socket};
use herald_e2e::{Balancer, Driver, Herald, Value, json};

/// The client's own reconnection, only faster than by default.
fn options(transports: &Value) -> Value {
    json!({
        "transports": transports, "reconnectionDelay": 50, "reconnectionDelayMax": 200,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_clients_move_to_another_edge_when_theirs_is_killed() {
    let mut herald = Herald::named("moves").edges(2).registries(1).start();
    let balancer = Balancer::start(&[herald.edge(0), herald.edge(1)]).await;
    let (node, python) = (Driver::node(), Driver::python());
    let mut clients = Vec::new();
    for (name, driver, transports) in [
        ("ws", &node, json!(["websocket"])),
        ("polling", &node, json!(["polling"])),
        ("upgraded", &node, json!(["polling", "websocket"])),
        ("python-ws", &python, json!(["websocket"])),
        ("python-polling", &python, json!(["polling"])),
        ("python-upgraded", &python, json!(["polling", "websocket"])),
    ] {
        let register = json!({"socketId": name, "groupFlag": "g"});
        clients.push(driver.registered(name, &balancer.url(), options(&transports), register).await);
    }
    let producer = herald.producer().await;
    producer.send(&to_group("g", "first")).await;
    for client in &mut clients {
        assert_eq!(client.inbox.data().await, "first");
    }
    herald.edges[0].kill();
    for client in &mut clients {
        client.inbox.next("disconnect").await;
        client.inbox.next("connect").await;
    }
    // the Python client has no recovery, and registers anew; the others may have recovered
    for client in clients.iter_mut().filter(|client| client.name().starts_with("python")) {
        client.inbox.next("registered").await;
    }
    for client in &clients {
        producer.send(&reliable(to_socket(client.name(), client.name()))).await;
    }
    producer.send(&reliable(to_group("g", "last"))).await;
    for client in &mut clients {
        let name = client.name().to_owned();
        assert_eq!(client.inbox.data_of(2).await, [&name, "last"]);
        assert!(client.inbox.unasked("superseded").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_edge_hands_its_clients_over_and_ends_with_success() {
    let mut herald =
        Herald::named("drain").edges(2).registries(1).set("edge", "HERALD_DRAIN_MS", "300").start();
    let balancer = Balancer::start(&[herald.edge(0), herald.edge(1)]).await;
    let node = Driver::node();
    let mut clients = Vec::new();
    for (i, transports) in [json!(["websocket"]), json!(["polling"])].iter().cycle().take(6).enumerate() {
        let name = format!("c{i}");
        let register = json!({"socketId": name, "groupFlag": "g"});
        clients.push(node.registered(&name, &balancer.url(), options(transports), register).await);
    }
    assert_eq!(herald.edges[0].terminate(), Some(0));
    for client in &mut clients {
        client.inbox.next("disconnect").await;
        client.inbox.next("connect").await;
    }
    let producer = herald.producer().await;
    producer.send(&reliable(to_group("g", 1))).await;
    for client in &mut clients {
        assert_eq!(client.inbox.data().await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_cannot_reach_any_edge_keeps_trying() {
    let herald = Herald::named("unreachable").edges(1).registries(0).start();
    let balancer = Balancer::start(&[]).await;
    let node = Driver::node();
    let mut client = node.connecting("a", &balancer.url(), options(&json!(["websocket"]))).await;
    client.inbox.next("connect_error").await;
    client.inbox.next("reconnect_attempt").await;
    balancer.point_at(&[herald.edge(0)]);
    client.inbox.next("connect").await;
    client.register(json!({"socketId": "a"})).await;
    herald.publish(&to_socket("a", 1)).await;
    assert_eq!(client.inbox.data().await, 1);
}
