//! Redis comes late, goes, and comes back empty; replicas come and go. What edges hold is made good each time.

#![allow(clippy::unwrap_used, reason = "this is test code, though not all in test functions")]

mod support;

use std::time::Duration;

use herald_wire::registry::{LocateRequest, WatchPressureRequest};
use support::edge::Edge;
use support::{Redis, Replica, until};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const LEASE: Duration = Duration::from_secs(3);

async fn serves(replica: &Replica) -> bool {
    let request = HealthCheckRequest { service: "herald.registry.v1.Registry".into() };
    HealthClient::new(replica.channel()).check(request).await.unwrap().into_inner().status == 1
}

async fn owner(replica: &Replica, socket_id: &str) -> Option<String> {
    let request = LocateRequest { socket_ids: vec![socket_id.into()] };
    let answer = replica.client().locate(request).await.ok()?.into_inner();
    answer.locations.into_iter().next().map(|location| location.edge_id)
}

async fn attached(replica: &Replica, edge_id: &str) -> Edge {
    until("it attaches", async || Edge::try_attach(replica, edge_id).await.ok()).await
}

#[tokio::test]
async fn redis_may_come_late_go_and_come_back_empty() {
    let mut redis = Redis::stopped();
    let replica = Replica::start(redis.store(LEASE), LEASE);
    assert!(!serves(&replica).await);
    let refused = Edge::try_attach(&replica, "e").await.err().unwrap();
    assert_eq!(refused.code(), Code::Unavailable);
    let asked = replica.client().locate(LocateRequest { socket_ids: vec!["s".into()] }).await;
    assert_eq!(asked.unwrap_err().code(), Code::Unavailable);
    let watched =
        replica.client().watch_pressure(WatchPressureRequest {}).await.unwrap().into_inner().message().await;
    assert_eq!(watched.unwrap_err().code(), Code::Unavailable);

    redis.run();
    let mut edge = attached(&replica, "e").await;
    edge.claim("s", 1, 0).await;
    until("s is owned", async || owner(&replica, "s").await).await;
    until("it says so", async || replica.ctx.readiness.is_ready().then_some(())).await;
    assert!(serves(&replica).await);

    redis.kill();
    until("it says so", async || (!replica.ctx.readiness.is_ready()).then_some(())).await;
    assert!(!serves(&replica).await);
    redis.run();
    until("it says so", async || replica.ctx.readiness.is_ready().then_some(())).await;
    // Redis has forgotten the lease: the edge is told to come again, and says what it holds
    edge.beat(0).await;
    assert_eq!(edge.ended().await.code(), Code::Aborted);
    let edge = attached(&replica, "e").await;
    edge.claim("s", 1, 0).await;
    assert_eq!(until("s is owned", async || owner(&replica, "s").await).await, "e");
    assert!(replica.ctx.tasks.death().is_none());
}

#[tokio::test]
async fn what_was_said_while_redis_was_away_is_not_lost() {
    let mut redis = Redis::start();
    let replica = Replica::start(redis.store(LEASE), LEASE);
    let mut edge = attached(&replica, "e").await;
    redis.kill();
    edge.claim("s", 1, 0).await;
    until("it says so", async || (!replica.ctx.readiness.is_ready()).then_some(())).await;
    redis.run();
    // heard and tried until Redis was back, and refused then, because the lease went with the data
    assert_eq!(edge.ended().await.code(), Code::Aborted);
}

#[tokio::test]
async fn state_survives_the_registry() {
    let redis = Redis::start();
    let replica = Replica::start(redis.store(LEASE), LEASE);
    let edge = Edge::attach(&replica, "e").await;
    edge.claim("s", 1, 0).await;
    until("s is owned", async || owner(&replica, "s").await).await;
    drop(replica);
    let replica = Replica::start(redis.store(LEASE), LEASE);
    assert_eq!(owner(&replica, "s").await.as_deref(), Some("e"));
}

/// The eviction is published while nobody listens: the audit finds it.
#[tokio::test]
async fn an_eviction_lost_between_replicas_is_made_good() {
    let redis = Redis::start();
    let lease = Duration::from_secs(600);
    let replicas = [Replica::start(redis.store(lease), lease), Replica::start(redis.store(lease), lease)];
    let mut loser = Edge::attach(&replicas[0], "loser").await;
    loser.claim("s", 1, 60_000).await;
    until("s is owned", async || owner(&replicas[0], "s").await).await;
    // another registry rules on the claim, and dies before it tells anybody
    let store = redis.store(lease);
    let winner = store.attach("winner", "w:1").await.unwrap();
    let claim = herald_wire::registry::Claim { socket_id: "s".into(), connection: 5, age_ms: 0 };
    assert_eq!(store.claim(&winner, &[claim]).await.unwrap().len(), 1);
    // the connections for events break, as they do when Redis closes them
    until("both listen", async || {
        let (_, listeners): (String, u64) =
            redis.command(&["PUBSUB", "NUMSUB", "test:registry-events"]).await;
        (listeners == 2).then_some(())
    })
    .await;
    assert_eq!(redis.command::<u64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await, 2);
    let evict = loser.evicted().await;
    assert_eq!((evict.connection, evict.by_edge_id.as_str()), (1, "winner"));
}
