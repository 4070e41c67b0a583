//! The registry: its replicas give the same answers, a dead edge is forgotten within its lease, and delivery does not
//! need any of it.

use std::time::{Duration, Instant};

use herald_e2e::herald::{Builder, to_group, to_socket};
use herald_e2e::registry::Registry;
use herald_e2e::{Driver, Herald, PlainClient, SseClient, json, until};
use tonic::Code;

const LEASE: Duration = Duration::from_millis(2_000);

fn herald(name: &str) -> Builder {
    Herald::named(name).edges(2).registries(2).set(
        "registry",
        "HERALD_LEASE_MS",
        &LEASE.as_millis().to_string(),
    )
}

async fn replicas(herald: &Herald) -> [Registry; 2] {
    [herald.registry(0).await, herald.registry(1).await]
}

/// Waits until each replica says that this edge, by address, owns the socketId; or that nobody does.
async fn owned(replicas: &mut [Registry], socket_id: &str, address: Option<&str>) {
    for replica in replicas {
        until(&format!("{socket_id} is owned by {address:?}"), async || {
            let owner = replica.owner(socket_id).await.map(|owner| owner.address);
            (owner.as_deref() == address).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_replicas_know_every_edge_and_every_owner() {
    let herald = herald("same-answers").start();
    let [mut first, mut second] = replicas(&herald).await;
    let _a = PlainClient::registered(herald.edge(0), json!({"socketId": "a"})).await;
    let _b = SseClient::connect(herald.edge(1), "/events?socketId=b&group=g").await;
    let node = Driver::node();
    let c = node.connect("c", &herald.edge_url(1), json!({})).await;
    c.register(json!({"socketId": "c"})).await;
    let mut both = [first.clone(), second.clone()];
    for (socket_id, edge) in [("a", 0), ("b", 1), ("c", 1)] {
        owned(&mut both, socket_id, Some(&herald.edge_url(edge))).await;
    }
    let asked = ["c", "nobody", "a", "b"];
    let answer = first.locate(&asked).await;
    assert_eq!(answer, second.locate(&asked).await);
    let found: Vec<&str> = answer.iter().map(|location| location.socket_id.as_str()).collect();
    assert_eq!(found, ["c", "a", "b"], "in the order asked, without those nobody owns");
    let edges = first.edges().await;
    let ids = |edges: &[herald_wire::registry::Edge]| -> Vec<(String, String)> {
        edges.iter().map(|edge| (edge.edge_id.clone(), edge.address.clone())).collect()
    };
    assert_eq!(edges.len(), 2);
    assert_eq!(ids(&edges), ids(&second.edges().await));
    // heartbeats bring the counts
    until("the edges told how many clients they have", async || {
        let edges = second.edges().await;
        (edges.iter().map(|edge| edge.connections).sum::<u64>() == 3).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_replica_can_disconnect_a_client_of_any_edge() {
    let herald = herald("disconnect").start();
    let mut both = replicas(&herald).await;
    let mut plain = PlainClient::registered(herald.edge(0), json!({"socketId": "plain"})).await;
    let mut events = SseClient::connect(herald.edge(0), "/events?socketId=events").await;
    let node = Driver::node();
    let options = json!({"transports": ["websocket"], "reconnection": false});
    let mut socketio = node.connect("a", &herald.edge_url(1), options).await;
    socketio.register(json!({"socketId": "socketio"})).await;
    for socket_id in ["plain", "events", "socketio"] {
        until("it is known", async || both[1].owner(socket_id).await).await;
        // attached to the other replica, for edge 0 and for edge 1
        let replica = usize::from(socket_id != "socketio");
        both[replica].disconnect(socket_id, "you have to go").await.expect("somebody owns it");
    }
    let closed = plain.inbox.next("closed").await;
    assert_eq!((&closed["code"], &closed["reason"]), (&json!(4002), &json!("you have to go")));
    events.inbox.next("closed").await;
    assert_eq!(socketio.inbox.next("disconnect").await["reason"], "io server disconnect");
    for socket_id in ["plain", "events", "socketio"] {
        owned(&mut both, socket_id, None).await;
        let error = both[0].disconnect(socket_id, "again").await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "{socket_id}");
    }
    let error = both[0].disconnect("any", &"x".repeat(124)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_killed_is_gone_from_every_answer_within_its_lease() {
    let mut herald = herald("killed").start();
    let mut both = replicas(&herald).await;
    let _dead = PlainClient::registered(herald.edge(0), json!({"socketId": "dead"})).await;
    let _alive = PlainClient::registered(herald.edge(1), json!({"socketId": "alive"})).await;
    let (dead, alive) = (herald.edge_url(0), herald.edge_url(1));
    owned(&mut both, "dead", Some(&dead)).await;
    owned(&mut both, "alive", Some(&alive)).await;
    herald.edges[0].kill();
    let begin = Instant::now();
    for replica in &mut both {
        until("the edge is gone", async || (replica.edges().await.len() == 1).then_some(())).await;
        assert_eq!(replica.owner("dead").await, None, "an edge that is gone owns nothing");
    }
    let took = begin.elapsed();
    assert!(took < LEASE + Duration::from_millis(1_000), "it took {took:?}");
    assert_eq!(both[0].owner("alive").await.map(|owner| owner.address), Some(alive));
    // what comes back is another edge, and has nothing until its clients are back
    herald.edges[0].start();
    herald.edges[0].wait_ready();
    until("the edge is back", async || (both[1].edges().await.len() == 2).then_some(())).await;
    assert_eq!(both[0].owner("dead").await, None);
    let _back = PlainClient::registered(herald.edge(0), json!({"socketId": "dead"})).await;
    owned(&mut both, "dead", Some(&dead)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_drains_says_goodbye_and_its_clients_are_told() {
    let mut herald = herald("drained").set("edge", "HERALD_DRAIN_MS", "200").start();
    let mut both = replicas(&herald).await;
    let mut client = PlainClient::registered(herald.edge(0), json!({"socketId": "me"})).await;
    let mut events = SseClient::connect(herald.edge(0), "/events?socketId=you").await;
    owned(&mut both, "me", Some(&herald.edge_url(0))).await;
    assert_eq!(herald.edges[0].terminate(), Some(0));
    assert_eq!(client.inbox.next("closed").await["code"], 1012);
    events.inbox.next("closed").await;
    owned(&mut both, "me", None).await;
    owned(&mut both, "you", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_registry_is_down_delivery_goes_on_and_claims_are_made_good_afterwards() {
    let mut herald = herald("down").start();
    let mut before =
        PlainClient::registered(herald.edge(0), json!({"socketId": "before", "groupFlag": "g"})).await;
    let mut older = PlainClient::registered(herald.edge(0), json!({"socketId": "twice"})).await;
    owned(&mut replicas(&herald).await, "before", Some(&herald.edge_url(0))).await;
    herald.registries.iter_mut().for_each(herald_e2e::Process::kill);
    let mut during =
        PlainClient::registered(herald.edge(1), json!({"socketId": "during", "groupFlag": "g"})).await;
    let mut newer = PlainClient::registered(herald.edge(1), json!({"socketId": "twice"})).await;
    let producer = herald.producer().await;
    producer.send(&to_socket("before", 1)).await;
    producer.send(&to_socket("during", 1)).await;
    producer.send(&to_group("g", 2)).await;
    assert_eq!(before.inbox.data_of(2).await, [1, 2]);
    assert_eq!(during.inbox.data_of(2).await, [1, 2]);
    herald.registries.iter_mut().for_each(|registry| {
        registry.start();
        registry.wait_ready();
    });
    let mut both = replicas(&herald).await;
    owned(&mut both, "before", Some(&herald.edge_url(0))).await;
    owned(&mut both, "during", Some(&herald.edge_url(1))).await;
    // claimed on two edges while nobody could know: the newest wins once somebody does
    assert_eq!(older.inbox.next("superseded").await["socketId"], "twice");
    owned(&mut both, "twice", Some(&herald.edge_url(1))).await;
    producer.send(&to_socket("twice", 3)).await;
    assert_eq!(
        newer.inbox.next_where("message", |event| event["message"]["data"] == 3).await["message"]["data"],
        3
    );
    assert!(newer.inbox.unasked("superseded").is_empty());
}
