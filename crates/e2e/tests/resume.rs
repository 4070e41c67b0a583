//! What survives a session's connections, where it is easily got wrong: connections whose edge does not know that they
//! are over, messages with several targets, explicit acks, and pages that are loaded again.

use herald_e2e::herald::{reliable, to_group, to_socket};
use herald_e2e::{Balancer, Herald, PlainClient, Process, Value, json, until};

/// A client, and what it needs to resume.
async fn registered(edge: std::net::SocketAddr, register: Value) -> (PlainClient, Value) {
    let mut client = PlainClient::open(edge, "/ws");
    let pid = client.inbox.next("hello").await["pid"].take();
    client.register(register).await;
    (client, pid)
}

async fn resumed(edge: std::net::SocketAddr, pid: &Value, cursor: Option<String>) -> PlainClient {
    let mut client = PlainClient::connect(edge).await;
    client.send(&json!({"type": "resume", "pid": pid, "cursor": cursor}));
    client.inbox.next("resumed").await;
    client
}

async fn closed(edge: &Process, reason: &str) {
    let what = format!("{} closed one: {reason}", edge.name);
    let closed = || edge.metrics().sum("herald_edge_closed_total", &[("reason", reason)]) == 1.0;
    until(&what, async || closed().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_its_socket_id_when_the_edge_it_left_hears_of_it_late() {
    let herald = Herald::named("half-open").edges(2).registries(1).start();
    let balancer = Balancer::start(&[herald.edge(0)]).await;
    let (_page, pid) = registered(balancer.listen, json!({"socketId": "me", "groupFlag": "g"})).await;
    balancer.vanish();
    let mut client = resumed(herald.edge(1), &pid, None).await;
    // told by the registry that it lost the socketId, it finds that its own session has it
    closed(&herald.edges[0], "resumed").await;
    let producer = herald.producer().await;
    producer.send(&reliable(to_socket("me", 1))).await;
    let cursor = client.inbox.delivery().await.cursor;
    client.cut();
    producer.send(&reliable(to_socket("me", 2))).await;
    let mut again = resumed(herald.edge(0), &pid, cursor).await;
    producer.send(&reliable(to_socket("me", 3))).await;
    assert_eq!(again.inbox.data_of(2).await, [2, 3]);
    assert!(again.inbox.unasked("superseded").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_several_of_a_clients_targets_comes_once_over_reconnects_too() {
    let herald = Herald::named("copies").edges(2).registries(0).start();
    let groups = json!(["g", "h", "i"]);
    let message = |number: usize| reliable(json!({"socketGroupFlag": groups, "data": number}));
    let (mut client, pid) = registered(herald.edge(0), json!({"groupFlag": groups})).await;
    let producer = herald.producer().await;
    producer.send_all(&(0..20).map(message).collect::<Vec<_>>()).await;
    // the cursor of the first copy of the last one: the others stand behind it
    let mut cursor = None;
    for number in 0..20 {
        let delivery = client.inbox.delivery().await;
        assert_eq!(delivery.message["data"], number);
        cursor = delivery.cursor;
    }
    for edge in [0, 1] {
        client.cut();
        client = resumed(herald.edge(edge), &pid, cursor.clone()).await;
        producer.send(&to_group("g", "end")).await;
        assert_eq!(client.inbox.data().await, "end", "it has all of them");
    }
    client.cut();
    producer.send_all(&(20..60).map(message).collect::<Vec<_>>()).await;
    Herald::wait_sum(&herald.ingests, "herald_ingest_in_flight_messages", &[], 0.0);
    let mut client = resumed(herald.edge(1), &pid, cursor).await;
    producer.send(&to_group("g", "end")).await;
    assert_eq!(client.inbox.data_of(40).await, (20..60).map(Value::from).collect::<Vec<_>>());
    assert_eq!(client.inbox.data().await, "end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_loaded_again_gets_no_old_messages_even_if_nobody_noticed_that_it_was_left() {
    let herald = Herald::named("reload").edges(1).registries(0).start();
    let balancer = Balancer::start(&[herald.edge(0)]).await;
    let (mut page, _) = registered(balancer.listen, json!({"socketId": "me"})).await;
    let producer = herald.producer().await;
    for number in 0..5 {
        producer.send(&reliable(to_socket("me", number))).await;
        assert_eq!(page.inbox.data().await, number);
    }
    balancer.vanish();
    let (mut page, _) = registered(herald.edge(0), json!({"socketId": "me"})).await;
    producer.send(&reliable(to_socket("me", "new"))).await;
    assert_eq!(page.inbox.data().await, "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn explicit_acks_hold_over_a_killed_edge_and_for_the_next_session_too() {
    let mut herald = Herald::named("acks-killed").edges(2).registries(1).start();
    let register = json!({"socketId": "me", "groupFlag": "g", "ack": true});
    let (mut client, pid) = registered(herald.edge(0), register.clone()).await;
    let producer = herald.producer().await;
    let mut cursors = Vec::new();
    for number in 0..6 {
        let to = if number % 2 == 0 { to_socket("me", number) } else { to_group("g", number) };
        producer.send(&reliable(to)).await;
        cursors.push(client.inbox.delivery().await.cursor);
    }
    client.send(&json!({"type": "ack", "cursor": cursors[1], "id": 1}));
    client.inbox.next("acked").await;
    herald.edges[0].kill();
    let mut client = resumed(herald.edge(1), &pid, cursors[5].clone()).await;
    assert_eq!(client.inbox.data_of(4).await, [2, 3, 4, 5], "received and not acked");
    client.close();
    client.inbox.next("closed").await;
    closed(&herald.edges[1], "client_closed").await;
    // another session of the socketId: the mailbox holds what nobody acked
    let (mut client, _) = registered(herald.edge(1), register).await;
    assert_eq!(client.inbox.data_of(2).await, [2, 4]);
}
