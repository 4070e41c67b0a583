//! The service end to end, in this process: two replicas over one store, edges and askers over real sockets.

#![allow(clippy::unwrap_used, reason = "this is test code, though not all in test functions")]

mod support;

use std::time::Duration;

use herald_registry::Store;
use herald_wire::registry::edge_message::Kind as Up;
use herald_wire::registry::{
    Claim, Claims, DisconnectRequest, EdgeMessage, Heartbeat, Hello, ListEdgesRequest, LocateRequest,
    Location, Pressure, WatchPressureRequest,
};
use support::edge::Edge;
use support::{PATIENCE, Redis, Replica, memory, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

const LEASE: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(1_000);

async fn locate(replica: &Replica, socket_id: &str) -> Option<Location> {
    let request = LocateRequest { socket_ids: vec![socket_id.into()] };
    replica.client().locate(request).await.unwrap().into_inner().locations.pop()
}

async fn owned_by(replica: &Replica, socket_id: &str, edge_id: &str, connection: u64) -> Location {
    until(&format!("{socket_id} is {edge_id}'s"), async || {
        locate(replica, socket_id).await.filter(|l| l.edge_id == edge_id && l.connection == connection)
    })
    .await
}

async fn edges(replica: &Replica) -> Vec<String> {
    let answer = replica.client().list_edges(ListEdgesRequest {}).await.unwrap().into_inner();
    answer.edges.into_iter().map(|edge| edge.edge_id).collect()
}

/// Two replicas, on memory and on Redis.
macro_rules! on_both {
    ($($name:ident($lease:expr);)*) => {
        mod in_memory {
            $(#[tokio::test] async fn $name() { super::$name(super::memory($lease), $lease).await; })*
        }
        mod in_redis {
            $(#[tokio::test] async fn $name() {
                let redis = super::Redis::start();
                super::$name(redis.store($lease), $lease).await;
            })*
        }
    };
}

on_both! {
    a_takeover_reaches_the_loser_wherever_it_is(super::LEASE);
    a_stream_that_breaks_releases_nothing(super::LEASE);
    a_dead_edge_is_gone_within_its_lease(super::SHORT);
    what_is_not_repeated_is_forgotten(super::SHORT);
    a_connection_is_closed_on_demand(super::LEASE);
    the_worst_pressure_is_watched(super::LEASE);
    a_drain_sends_edges_elsewhere(super::LEASE);
}

async fn a_takeover_reaches_the_loser_wherever_it_is(store: Store, lease: Duration) {
    let replicas = [Replica::start(store.clone(), lease), Replica::start(store, lease)];
    let mut here = Edge::attach(&replicas[0], "here").await;
    let mut there = Edge::attach(&replicas[1], "there").await;
    here.claim("s", 1, 90_000).await;
    let location = owned_by(&replicas[1], "s", "here", 1).await;
    assert_eq!(location.address, "here:8080");
    // across replicas, and back
    there.claim("s", 2, 60_000).await;
    let evict = here.evicted().await;
    assert_eq!((evict.socket_id.as_str(), evict.connection, evict.by_edge_id.as_str()), ("s", 1, "there"));
    here.claim("s", 3, 30_000).await;
    assert_eq!(there.evicted().await.by_edge_id, "here");
    // an older one loses at once, on its own stream
    there.claim("s", 4, 45_000).await;
    let evict = there.evicted().await;
    assert_eq!((evict.connection, evict.by_edge_id.as_str()), (4, "here"));
    // a late goodbye harms nobody
    there.release("s", 2).await;
    there.claim("marker", 9, 0).await;
    owned_by(&replicas[0], "marker", "there", 9).await;
    for replica in &replicas {
        owned_by(replica, "s", "here", 3).await;
    }
    here.release("s", 3).await;
    until("s is free", async || locate(&replicas[1], "s").await.is_none().then_some(())).await;
}

async fn a_stream_that_breaks_releases_nothing(store: Store, lease: Duration) {
    let replicas = [Replica::start(store.clone(), lease), Replica::start(store, lease)];
    let mut first = Edge::attach(&replicas[0], "e").await;
    first.claim("s", 1, 5_000).await;
    let since = owned_by(&replicas[0], "s", "e", 1).await.since_ms;
    // it comes back on another replica before the first noticed anything, and is listened to there only
    let again = Edge::attach(&replicas[1], "e").await;
    first.claim("t", 2, 0).await;
    assert_eq!(first.ended().await.code(), Code::Aborted);
    again.claim("s", 1, 0).await;
    again.claim("u", 3, 0).await;
    owned_by(&replicas[0], "u", "e", 3).await;
    assert_eq!(owned_by(&replicas[0], "s", "e", 1).await.since_ms, since);
    assert!(locate(&replicas[0], "t").await.is_none());
    drop(again);
    until("the stay ends", async || (replicas[1].ctx.tasks.len() == 3).then_some(())).await;
    owned_by(&replicas[0], "s", "e", 1).await;
    assert_eq!(edges(&replicas[0]).await, ["e"]);
    // and once more on the same replica, twice
    let mut third = Edge::attach(&replicas[1], "e").await;
    let _fourth = Edge::attach(&replicas[1], "e").await;
    assert_eq!(third.ended().await.code(), Code::Aborted);
}

async fn a_dead_edge_is_gone_within_its_lease(store: Store, lease: Duration) {
    let replicas = [Replica::start(store.clone(), lease), Replica::start(store, lease)];
    let dead = Edge::attach(&replicas[0], "dead").await;
    let alive = Edge::attach(&replicas[0], "alive").await;
    let beating = tokio::spawn(async move {
        let mut beats = tokio::time::interval(SHORT / 5);
        loop {
            beats.tick().await;
            alive.beat(0).await;
        }
    });
    dead.claim("s", 1, 0).await;
    owned_by(&replicas[1], "s", "dead", 1).await;
    let start = Instant::now();
    drop(dead);
    for replica in &replicas {
        until("it is gone", async || (edges(replica).await == ["alive"]).then_some(())).await;
        assert!(locate(replica, "s").await.is_none());
    }
    assert!(start.elapsed() < lease + lease / 2, "{:?}", start.elapsed());
    beating.abort();
}

async fn what_is_not_repeated_is_forgotten(store: Store, lease: Duration) {
    let replica = Replica::start(store, lease);
    let first = Edge::attach(&replica, "e").await;
    first.claim("gone", 1, 0).await;
    first.claim("kept", 2, 0).await;
    owned_by(&replica, "kept", "e", 2).await;
    let again = Edge::attach(&replica, "e").await;
    again.claim("kept", 2, 0).await;
    assert!(locate(&replica, "gone").await.is_some());
    until("it is forgotten", async || {
        again.beat(0).await;
        locate(&replica, "gone").await.is_none().then_some(())
    })
    .await;
    owned_by(&replica, "kept", "e", 2).await;
}

async fn a_connection_is_closed_on_demand(store: Store, lease: Duration) {
    let replicas = [Replica::start(store.clone(), lease), Replica::start(store, lease)];
    let mut edge = Edge::attach(&replicas[0], "e").await;
    edge.claim("s", 7, 0).await;
    owned_by(&replicas[0], "s", "e", 7).await;
    for replica in &replicas {
        let request = DisconnectRequest { socket_id: "s".into(), reason: "maintenance".into() };
        assert_eq!(replica.client().disconnect(request).await.unwrap().into_inner().edge_id, "e");
        let close = edge.closed().await;
        assert_eq!(
            (close.socket_id.as_str(), close.connection, close.reason.as_str()),
            ("s", 7, "maintenance")
        );
    }
    let request = DisconnectRequest { socket_id: "nobody".into(), reason: String::new() };
    assert_eq!(replicas[0].client().disconnect(request).await.unwrap_err().code(), Code::NotFound);
}

async fn the_worst_pressure_is_watched(store: Store, lease: Duration) {
    let replicas = [Replica::start(store.clone(), lease), Replica::start(store, lease)];
    until("the store answers", async || replicas[1].ctx.readiness.is_ready().then_some(())).await;
    let mut pressure =
        replicas[1].client().watch_pressure(WatchPressureRequest {}).await.unwrap().into_inner();
    let nobody = Pressure { bottleneck: "no edge is attached".to_owned(), ..Pressure::default() };
    assert_eq!(pressure.message().await.unwrap().unwrap(), nobody);
    let slow = Edge::attach(&replicas[0], "slow").await;
    let fast = Edge::attach(&replicas[1], "fast").await;
    slow.beat(9_000).await;
    fast.beat(1_000).await;
    let mut heard = pressure.message().await.unwrap().unwrap();
    while heard.edge_id != "slow" {
        heard = timeout(PATIENCE, pressure.message()).await.unwrap().unwrap().unwrap();
    }
    assert_eq!((heard.lateness_us, heard.fullness_permille), (9_000, 500));
    // unchanged, it is said again all the same
    assert_eq!(timeout(PATIENCE, pressure.message()).await.unwrap().unwrap().unwrap(), heard);
    slow.beat(0).await;
    while heard.edge_id != "fast" {
        heard = timeout(PATIENCE, pressure.message()).await.unwrap().unwrap().unwrap();
    }
}

async fn a_drain_sends_edges_elsewhere(store: Store, lease: Duration) {
    let replica = Replica::start(store, lease);
    until("the store answers", async || replica.ctx.readiness.is_ready().then_some(())).await;
    let mut edge = Edge::attach(&replica, "e").await;
    let mut pressure = replica.client().watch_pressure(WatchPressureRequest {}).await.unwrap().into_inner();
    assert!(pressure.message().await.unwrap().is_some());
    let drained = replica.ctx.tasks.drain(PATIENCE).await;
    assert_eq!(drained, herald_chassis::shutdown::Drained::Soft);
    assert!(replica.ctx.tasks.death().is_none());
    let status = edge.ended().await;
    assert_eq!((status.code(), status.message().contains("draining")), (Code::Unavailable, true));
    let ended = async {
        loop {
            match pressure.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status.code()),
            }
        }
    };
    assert_eq!(timeout(PATIENCE, ended).await.unwrap(), Some(Code::Unavailable));
}

fn hello(edge_id: &str, address: &str) -> Up {
    Up::Hello(Hello { edge_id: edge_id.into(), address: address.into() })
}

fn claims(ids: impl IntoIterator<Item = String>) -> Up {
    let claim = |socket_id| Claim { socket_id, ..Claim::default() };
    Up::Claims(Claims { claims: ids.into_iter().map(claim).collect() })
}

#[tokio::test]
async fn bad_streams_are_told_what_is_wrong_and_harm_nobody() {
    let replica = Replica::start(memory(LEASE), LEASE);
    let good = Edge::attach(&replica, "good").await;
    let full = Pressure { fullness_permille: 1_001, ..Pressure::default() };
    let cases: Vec<(Vec<Up>, &str)> = vec![
        (vec![Up::Heartbeat(Heartbeat::default())], "kind: the first message must be Hello"),
        (vec![hello("", "a")], "hello.edge_id: must not be empty"),
        (vec![hello(&"e".repeat(300), "a")], "hello.edge_id: is 300 bytes long"),
        (vec![hello("a\nb", "a")], "hello.edge_id: must not hold control characters"),
        (vec![hello("e", "")], "hello.address: must not be empty"),
        (vec![hello("e", "a"), hello("e", "a")], "hello: was said already"),
        (
            vec![hello("e", "a"), claims([String::new()])],
            "claims.claims[0].socket_id: socketId must not be empty",
        ),
        (vec![hello("e", "a"), claims(["s".repeat(257)])], "socketId is 257 bytes long"),
        (vec![hello("e", "a"), claims((0..1_001).map(|n| n.to_string()))], "claims.claims: holds 1001 items"),
        (
            vec![hello("e", "a"), Up::Heartbeat(Heartbeat { pressure: Some(full), ..Heartbeat::default() })],
            "heartbeat.pressure.fullness_permille: is 1001",
        ),
    ];
    for (messages, what) in cases {
        let mut edge = Edge::open(&replica).await.unwrap();
        for message in messages {
            edge.say(message).await;
        }
        let status = edge.ended().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{what}");
        assert!(status.message().contains(what), "{what}: {}", status.message());
    }
    let mut edge = Edge::open(&replica).await.unwrap();
    edge.up.send(EdgeMessage { kind: None }).await.unwrap();
    assert_eq!(edge.ended().await.code(), Code::InvalidArgument);
    // the first message never comes: the stream just ends
    let mut silent = Edge::open(&replica).await.unwrap();
    let (nothing, _) = tokio::sync::mpsc::channel(1);
    silent.up = nothing;
    assert_eq!(silent.ended().await.code(), Code::Ok);
    good.claim("s", 1, 0).await;
    owned_by(&replica, "s", "good", 1).await;
}

#[tokio::test]
async fn bad_questions_are_told_what_is_wrong() {
    let replica = Replica::start(memory(LEASE), LEASE);
    let mut client = replica.client();
    let bad = |status: Status, what: &str| {
        assert_eq!(status.code(), Code::InvalidArgument, "{what}");
        assert!(status.message().contains(what), "{what}: {}", status.message());
    };
    let request = LocateRequest { socket_ids: vec!["s".into(); 1_001] };
    bad(client.locate(request).await.unwrap_err(), "socket_ids: holds 1001 items; at most 1000");
    let request = LocateRequest { socket_ids: vec!["s".into(), String::new()] };
    bad(client.locate(request).await.unwrap_err(), "socket_ids[1]: socketId must not be empty");
    let request = DisconnectRequest { socket_id: "s".into(), reason: "r".repeat(124) };
    bad(client.disconnect(request).await.unwrap_err(), "reason: is 124 bytes long; at most 123");
    let request = DisconnectRequest { socket_id: String::new(), reason: String::new() };
    bad(client.disconnect(request).await.unwrap_err(), "socket_id: socketId must not be empty");
    let request = LocateRequest { socket_ids: vec!["s".into(); 1_000] };
    assert!(client.locate(request).await.unwrap().into_inner().locations.is_empty());
}

#[tokio::test]
async fn garbage_on_the_port_harms_nobody() {
    let replica = Replica::start(memory(LEASE), LEASE);
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4_096], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff"]
    {
        let mut stream = tokio::net::TcpStream::connect(replica.address).await.unwrap();
        let _ = stream.write_all(garbage).await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    }
    // a message larger than allowed
    let mut edge = Edge::attach(&replica, "big").await;
    edge.say(claims(["s".repeat(6 << 20)])).await;
    assert_eq!(edge.ended().await.code(), Code::OutOfRange);
    Edge::attach(&replica, "good").await;
    assert!(replica.ctx.tasks.death().is_none());
}

#[tokio::test]
async fn health_and_reflection_answer() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    };

    let replica = Replica::start(memory(LEASE), LEASE);
    until("it serves", async || {
        let request = HealthCheckRequest { service: "herald.registry.v1.Registry".into() };
        let answer = HealthClient::new(replica.channel()).check(request).await.unwrap().into_inner();
        (answer.status == 1).then_some(())
    })
    .await;
    let list = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { message_request: Some(list), ..Default::default() };
    let mut client = ServerReflectionClient::new(replica.channel());
    let asked = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
    let answer = asked.into_inner().message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(services) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = services.service.into_iter().map(|service| service.name).collect();
    assert!(names.contains(&"herald.registry.v1.Registry".to_owned()), "{names:?}");
}
