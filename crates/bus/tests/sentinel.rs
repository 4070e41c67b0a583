//! A bus whose Redis is found through a Sentinel, and follows it through a failover.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // functions that tests share are tests too

mod server;
mod suite;

use herald_bus::{Bus, FeedEvent, Interruption, Published, RedisConfig};
use herald_wire::Position;
use server::{Server, until};
use suite::{body, feed, logged, next, publish, reliable, socket, volatile};

#[tokio::test]
async fn a_failover_is_followed() {
    let master = Server::started(&[]).await;
    let port = master.port.to_string();
    let replica = Server::started(&["--replicaof", "127.0.0.1", &port]).await;
    let sentinel = Server::sentinel(&master).await;
    let bus = Bus::redis(RedisConfig::new(&format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port)))
        .await
        .unwrap();
    let a = socket("a");
    let (subscriptions, mut feed) = feed(&bus).await;
    subscriptions.subscribe(std::slice::from_ref(&a)).await.unwrap();
    let first = logged(publish(&bus, reliable(&a, "1")).await);
    assert_eq!(body(&next(&mut feed, 1).await[0]).1, "1");

    // the Sentinel must have seen the replica, and the replica must have all there is
    until("the replica can be promoted", async || {
        format!("{:?}", replica.command(&["INFO", "replication"]).await).contains("master_link_status:up")
            && sentinel.try_command(&["SENTINEL", "FAILOVER", "main"]).await.is_ok()
    })
    .await;
    let events = next(&mut feed, 2).await;
    assert_eq!(events, [FeedEvent::Down, FeedEvent::Interrupted { reason: Interruption::Reconnected }]);
    until("it publishes on the new one", async || bus.publish(&[reliable(&a, "2")]).await[0].is_ok()).await;
    assert_eq!(body(&next(&mut feed, 1).await[0]).1, "2");
    assert_eq!(publish(&bus, volatile(&a, "3")).await, Published::Sent { receivers: 1 });
    let log = bus.read_log(&a, Position::ZERO, 9).await.unwrap();
    assert_eq!(log.iter().map(|entry| entry.prev).collect::<Vec<_>>(), [Position::ZERO, first]);
}
