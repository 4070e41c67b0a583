//! Nothing reliable is lost when a connection is: clients resume by themselves, on whatever edge they come back to.

use herald_e2e::herald::{reliable, to_group, to_socket};
use herald_e2e::{Balancer, Driver, Herald, Inbox, PlainClient, SocketClient, SseClient, Value, json};

fn options(transports: &Value) -> Value {
    json!({"transports": transports, "reconnectionDelay": 50, "reconnectionDelayMax": 200})
}

/// Clients over each transport behind one balancer, all in the group `g`, each registered once by itself: the driver
/// registers again only when nothing was recovered.
async fn clients(node: &Driver, url: &str) -> Vec<SocketClient> {
    let mut clients = Vec::new();
    for (name, transports) in [
        ("ws", json!(["websocket"])),
        ("polling", json!(["polling"])),
        ("upgraded", json!(["polling", "websocket"])),
    ] {
        let register = json!({"socketId": name, "groupFlag": "g"});
        let mut client = node.registered(name, url, options(&transports), register).await;
        if name == "upgraded" {
            client.inbox.next("upgrade").await;
        }
        clients.push(client);
    }
    clients
}

async fn recovered(client: &mut SocketClient) {
    client.inbox.next("disconnect").await;
    let connected = client.inbox.next("connect").await;
    assert_eq!(connected["recovered"], true, "{connected}");
}

fn numbers(range: std::ops::Range<u64>) -> Vec<Value> {
    range.map(Value::from).collect()
}

/// Each of these reliable messages arrives, in order; duplicates only where the edge could not say what it had sent.
async fn all_in_order(inbox: &mut Inbox, range: std::ops::Range<u64>) {
    let mut due = range.start;
    while due < range.end {
        let got = inbox.data().await.as_u64().unwrap_or(u64::MAX);
        assert!(got <= due, "{due} is missing: {got} came instead");
        due = due.max(got + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_recovers_on_its_own_edge_after_its_network_was_cut() {
    let herald = Herald::named("cut").edges(1).registries(0).start();
    let balancer = Balancer::start(&[herald.edge(0)]).await;
    let node = Driver::node();
    let mut clients = clients(&node, &balancer.url()).await;
    let producer = herald.producer().await;
    producer.send(&reliable(to_group("g", 0))).await;
    for client in &mut clients {
        assert_eq!(client.inbox.data().await, 0);
    }
    balancer.point_at(&[]);
    balancer.cut();
    for i in 1..20 {
        producer.send(&reliable(to_group("g", i))).await;
    }
    producer.send(&to_group("g", "volatile: gone")).await;
    Herald::wait_sum(&herald.ingests, "herald_ingest_published_total", &[], 21.0);
    balancer.point_at(&[herald.edge(0)]);
    for client in &mut clients {
        recovered(client).await;
        assert_eq!(client.inbox.data_of(19).await, numbers(1..20), "in order, none twice");
    }
    producer.send(&to_group("g", "live again")).await;
    for client in &mut clients {
        assert_eq!(client.inbox.data().await, "live again");
        assert!(client.inbox.unasked("gap").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_recovers_on_another_edge_after_its_own_was_killed() {
    let mut herald = Herald::named("killed").edges(2).registries(2).start();
    let balancer = Balancer::start(&[herald.edge(0), herald.edge(1)]).await;
    let node = Driver::node();
    let mut clients = clients(&node, &balancer.url()).await;
    let producer = herald.producer().await;
    producer.send(&reliable(to_group("g", 0))).await;
    for client in &mut clients {
        assert_eq!(client.inbox.data().await, 0);
    }
    let messages: Vec<Value> = (1..400).map(|i| reliable(to_group("g", i))).collect();
    producer.send_all(&messages[..100]).await;
    herald.edges[0].kill();
    producer.send_all(&messages[100..]).await;
    for client in &mut clients {
        recovered(client).await;
        all_in_order(&mut client.inbox, 1..400).await;
    }
    for client in &clients {
        producer.send(&reliable(to_socket(client.name(), "to you"))).await;
    }
    for client in &mut clients {
        assert_eq!(client.inbox.data().await, "to you");
        assert!(client.inbox.unasked("gap").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_recovers_on_another_edge_after_its_own_was_drained() {
    let mut herald =
        Herald::named("drained").edges(2).registries(1).set("edge", "HERALD_DRAIN_MS", "300").start();
    let balancer = Balancer::start(&[herald.edge(0), herald.edge(1)]).await;
    let node = Driver::node();
    let mut clients = clients(&node, &balancer.url()).await;
    let producer = herald.producer().await;
    let sending = tokio::spawn(async move {
        for i in 0..400 {
            producer.send(&reliable(to_group("g", i))).await;
        }
    });
    for client in &mut clients {
        assert_eq!(client.inbox.data().await, 0);
    }
    assert_eq!(herald.edges[0].terminate(), Some(0));
    sending.await.expect("all sent");
    for client in &mut clients {
        recovered(client).await;
        assert_eq!(client.inbox.data_of(399).await, numbers(1..400), "in order, none twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_got_nothing_yet_recovers_too_and_registering_again_replays_nothing() {
    let herald = Herald::named("fresh").edges(2).registries(0).start();
    let balancer = Balancer::start(&[herald.edge(0)]).await;
    let node = Driver::node();
    let register = json!({"socketId": "a", "groupFlag": "g"});
    herald.publish(&reliable(to_group("g", "before it joined"))).await;
    let mut client =
        node.registered("a", &balancer.url(), options(&json!(["websocket"])), register.clone()).await;
    balancer.point_at(&[]);
    balancer.cut();
    client.inbox.next("disconnect").await;
    herald.publish(&reliable(to_group("g", 1))).await;
    herald.publish(&reliable(to_socket("a", 2))).await;
    balancer.point_at(&[herald.edge(1)]);
    let connected = client.inbox.next("connect").await;
    if connected["recovered"] == true {
        // as an application does that does not look at `recovered`
        assert_eq!(client.register(register.clone()).await["ok"], true);
    }
    assert_eq!(client.inbox.data_of(2).await, [1, 2]);
    assert_eq!(client.register(register).await["ok"], true);
    herald.publish(&to_group("g", "end")).await;
    assert_eq!(client.inbox.data().await, "end");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_clients_and_event_streams_resume_with_their_cursor_on_another_edge() {
    let mut herald = Herald::named("cursors").edges(2).registries(1).start();
    let mut plain = PlainClient::open(herald.edge(0), "/ws");
    let pid = plain.inbox.next("hello").await["pid"].take();
    plain.register(json!({"socketId": "plain", "groupFlag": "g"})).await;
    let path = "/events?socketId=events&group=g";
    let mut events = SseClient::connect(herald.edge(0), path).await;
    let producer = herald.producer().await;
    producer.send(&reliable(to_group("g", 1))).await;
    producer.send(&reliable(to_group("g", 2))).await;
    plain.inbox.data().await;
    events.inbox.data().await;
    let plain_cursor = plain.inbox.delivery().await.cursor;
    let events_cursor = events.inbox.delivery().await.cursor;
    herald.edges[0].kill();
    producer.send(&reliable(to_group("g", 3))).await;
    producer.send(&reliable(to_socket("plain", 4))).await;
    producer.send(&reliable(to_socket("events", 4))).await;
    Herald::wait_sum(&herald.ingests, "herald_ingest_published_total", &[], 5.0);
    let mut plain = PlainClient::connect(herald.edge(1)).await;
    plain.send(&json!({"type": "resume", "pid": pid, "cursor": plain_cursor, "id": 1}));
    assert_eq!(plain.inbox.data_of(2).await, [3, 4]);
    let resumed = plain.inbox.next("resumed").await;
    assert_eq!((&resumed["pid"], &resumed["socketId"], &resumed["id"]), (&pid, &json!("plain"), &json!(1)));
    let mut events = SseClient::resume(herald.edge(1), path, events_cursor.as_deref()).await;
    assert_eq!(events.inbox.data_of(2).await, [3, 4]);
    producer.send(&to_group("g", "live")).await;
    assert_eq!(plain.inbox.data().await, "live");
    assert_eq!(events.inbox.data().await, "live");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reliable_message_to_nobody_waits_in_the_mailbox_and_is_delivered_once() {
    let herald = Herald::named("mailbox").edges(2).registries(1).start();
    let producer = herald.producer().await;
    producer.send(&to_socket("late", "volatile: gone")).await;
    for i in 0..3 {
        producer.send(&reliable(to_socket("late", i))).await;
    }
    Herald::wait_sum(&herald.ingests, "herald_ingest_published_total", &[], 4.0);
    let mut first = PlainClient::registered(herald.edge(0), json!({"socketId": "late"})).await;
    assert_eq!(first.inbox.data_of(3).await, [0, 1, 2]);
    producer.send(&reliable(to_socket("late", 3))).await;
    assert_eq!(first.inbox.data().await, 3);
    // a page that is loaded again: a new session of the same socketId, on any edge
    for edge in [0, 1] {
        first.close();
        first.inbox.next("closed").await;
        let mut again = PlainClient::registered(herald.edge(edge), json!({"socketId": "late"})).await;
        producer.send(&reliable(to_socket("late", "new"))).await;
        assert_eq!(again.inbox.data().await, "new", "nothing old comes twice");
        first = again;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_explicit_acks_the_position_moves_only_by_the_clients_ack() {
    let herald = Herald::named("acks").edges(2).registries(0).start();
    let mut client = PlainClient::open(herald.edge(0), "/ws");
    let pid = client.inbox.next("hello").await["pid"].take();
    client.register(json!({"socketId": "a", "ack": true})).await;
    let producer = herald.producer().await;
    for i in 0..4 {
        producer.send(&reliable(to_socket("a", i))).await;
    }
    let mut cursors = Vec::new();
    for _ in 0..4 {
        cursors.push(client.inbox.delivery().await.cursor);
    }
    client.send(&json!({"type": "ack", "cursor": cursors[1], "id": 9}));
    assert_eq!(client.inbox.next("acked").await["id"], 9);
    client.cut();
    let mut again = PlainClient::connect(herald.edge(1)).await;
    again.send(&json!({"type": "resume", "pid": pid}));
    assert_eq!(again.inbox.data_of(2).await, [2, 3], "received and not acked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_is_older_than_the_log_is_told_as_a_gap() {
    let herald =
        Herald::named("gap").edges(1).registries(0).set("ingest", "HERALD_LOG_ENTRIES_MAX", "10").start();
    let mut client = PlainClient::open(herald.edge(0), "/ws");
    let pid = client.inbox.next("hello").await["pid"].take();
    client.register(json!({"groupFlag": "g"})).await;
    let producer = herald.producer().await;
    producer.send(&reliable(to_group("g", 0))).await;
    let cursor = client.inbox.delivery().await.cursor;
    client.cut();
    let messages: Vec<Value> = (1..1_001).map(|i| reliable(to_group("g", i))).collect();
    producer.send_all(&messages).await;
    Herald::wait_sum(&herald.ingests, "herald_ingest_published_total", &[], 1_001.0);
    let mut again = PlainClient::connect(herald.edge(0)).await;
    again.send(&json!({"type": "resume", "pid": pid, "cursor": cursor}));
    let gap = again.inbox.next("gap").await;
    assert_eq!(gap["target"], json!({"group": "g"}), "{gap}");
    assert!(gap["from"].as_u64() < gap["to"].as_u64(), "{gap}");
    let first = again.inbox.data().await.as_u64().expect("a number");
    assert!(first > 1 && first <= 991, "the log keeps at least what it was told to, and not all: {first}");
    assert_eq!(again.inbox.data_of(1_000 - first as usize).await, numbers(first + 1..1_001));
    assert!(again.inbox.unasked("gap").is_empty(), "one gap is told once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_cannot_be_resumed_by_who_does_not_know_its_private_id() {
    let herald = Herald::named("forged").edges(1).registries(0).start();
    let mut owner = PlainClient::registered(herald.edge(0), json!({"groupFlag": "secret"})).await;
    let producer = herald.producer().await;
    producer.send(&reliable(to_group("secret", 1))).await;
    let cursor = owner.inbox.delivery().await.cursor;
    producer.send(&reliable(to_group("secret", 2))).await;
    owner.inbox.data().await;
    let mut thief = PlainClient::connect(herald.edge(0)).await;
    thief.send(&json!({"type": "resume", "pid": "guessed", "cursor": cursor}));
    assert_eq!(thief.inbox.next("error").await["code"], "unknown_session");
    thief.register(json!({"groupFlag": "other"})).await;
    producer.send(&to_group("other", "end")).await;
    assert_eq!(thief.inbox.data().await, "end", "a cursor alone opens nothing");
    let node = Driver::node();
    let mut options = options(&json!(["websocket"]));
    options["auth"] = json!({"pid": "guessed", "offset": cursor});
    let mut client = node.connecting("a", &herald.edge_url(0), options).await;
    assert_eq!(client.inbox.next("connect").await["recovered"], false);
}
