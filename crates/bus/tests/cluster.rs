//! The suite on a real Redis Cluster of three nodes, and what only a cluster does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // functions that tests share are tests too

mod server;
mod suite;

use std::collections::HashSet;

use herald_bus::{Bus, FeedEvent, Interruption, LogConfig, Published, RedisConfig};
use herald_wire::{Cursor, Names};
use server::{Cluster, until};
use suite::{Bench, body, feed, next, publish, reliable, socket, volatile};

async fn bench(log: LogConfig) -> Bench {
    let cluster = Cluster::started().await;
    let bus = Bus::redis(RedisConfig { log, ..RedisConfig::new(&cluster.url()) }).await.unwrap();
    Bench { bus, one_clock: false, _server: Some(Box::new(cluster)) }
}

on_every_bus!(bench);

const RECONNECTED: FeedEvent = FeedEvent::Interrupted { reason: Interruption::Reconnected };

#[tokio::test]
async fn a_killed_node_takes_down_the_feed_and_comes_back_with_all_it_carried() {
    let mut cluster = Cluster::started().await;
    let bus = Bus::redis(RedisConfig::new(&cluster.url())).await.unwrap();
    let (subscriptions, mut feed) = feed(&bus).await;
    let targets: Vec<_> = (0..3_000).map(|n| socket(&n.to_string())).collect();
    subscriptions.subscribe(&targets).await.unwrap();
    for node in 0..3 {
        cluster.nodes[node].kill();
        assert_eq!(next(&mut feed, 1).await, [FeedEvent::Down]);
        cluster.nodes[node].start().await;
        cluster.until_whole().await;
        assert_eq!(next(&mut feed, 1).await, [RECONNECTED]);
        let batch: Vec<_> = targets.iter().map(|target| volatile(target, target.as_str())).collect();
        for answer in bus.publish(&batch).await {
            assert_eq!(answer.unwrap(), Published::Sent { receivers: 1 });
        }
        let seen: HashSet<_> = next(&mut feed, 3_000).await.iter().map(|event| body(event).0).collect();
        assert_eq!(seen.len(), 3_000);
    }
}

#[tokio::test]
async fn a_replica_that_takes_over_is_followed() {
    let mut cluster = Cluster::started().await;
    let _replica = cluster.replica_of_first().await;
    let bus = Bus::redis(RedisConfig::new(&cluster.url())).await.unwrap();
    let (subscriptions, mut feed) = feed(&bus).await;
    let targets: Vec<_> = (0..300).map(|n| socket(&n.to_string())).collect();
    subscriptions.subscribe(&targets).await.unwrap();
    cluster.nodes[0].kill();
    // what a bus without a feed does: nobody tells it, it finds the new master when the old one does not answer
    let publisher = Bus::redis(RedisConfig::new(&cluster.url())).await.unwrap();
    let batch: Vec<_> = targets.iter().map(|target| reliable(target, target.as_str())).collect();
    for answer in publisher.publish(&batch).await {
        assert!(matches!(answer, Ok(Published::Logged(_))), "{answer:?}");
    }
    until("the feed is back", async || next(&mut feed, 1).await == [RECONNECTED]).await;
    let batch: Vec<_> = targets.iter().map(|target| volatile(target, "")).collect();
    for answer in bus.publish(&batch).await {
        assert_eq!(answer.unwrap(), Published::Sent { receivers: 1 });
    }
}

#[tokio::test]
async fn a_slot_that_moves_is_followed() {
    let cluster = Cluster::started().await;
    let bus = Bus::redis(RedisConfig::new(&cluster.url())).await.unwrap();
    let (subscriptions, mut feed) = feed(&bus).await;
    let a = socket("a");
    let others: Vec<_> = (0..100).map(|n| socket(&n.to_string())).collect();
    subscriptions.subscribe(std::slice::from_ref(&a)).await.unwrap();
    subscriptions.subscribe(&others).await.unwrap();
    let slot = bus.slot_of(&a);
    assert_ne!(slot, Cursor::ONE_REDIS);
    let from = usize::from(slot / 5_461);
    let to = (from + 1) % 3;
    let redis::Value::BulkString(id) = cluster.nodes[to].command(&["CLUSTER", "MYID"]).await else {
        panic!()
    };
    let id = String::from_utf8(id).unwrap();
    for node in [to, from, 3 - to - from] {
        cluster.nodes[node].command(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &id]).await;
    }
    assert_eq!(next(&mut feed, 2).await, [FeedEvent::Down, RECONNECTED]);
    assert_eq!(publish(&bus, volatile(&a, "moved")).await, Published::Sent { receivers: 1 });
    assert_eq!(body(&next(&mut feed, 1).await[0]).1, "moved");
    publish(&bus, reliable(&a, "logged")).await;
    assert_eq!(body(&next(&mut feed, 1).await[0]).1, "logged");
    for answer in bus.publish(&others.iter().map(|target| volatile(target, "")).collect::<Vec<_>>()).await {
        assert_eq!(answer.unwrap(), Published::Sent { receivers: 1 });
    }
}

#[tokio::test]
async fn slots_are_those_of_redis() {
    let cluster = Cluster::started().await;
    let bus = Bus::redis(RedisConfig::new(&cluster.url())).await.unwrap();
    let names = Names::new(Names::PREFIX_DEFAULT);
    for id in ["a", "a}b", "{a}", "}", "ä"] {
        let target = socket(id);
        let slot = cluster.nodes[0].command(&["CLUSTER", "KEYSLOT", &names.log(&target)]).await;
        assert_eq!(slot, redis::Value::Int(bus.slot_of(&target).into()), "{id}");
    }
}
