//! The feed's task against a bus in memory: what it lost without a sign is found, and data that is new is told.

use std::time::Duration;

use herald_bus::{Bus, FeedLimits, LogConfig, Publication};
use herald_chassis::{Readiness, Shutdown};
use herald_wire::{Envelope, Epoch, Position, Target};
use tokio::sync::mpsc;

use super::{FeedTask, Positions, Probe, Probing};
use crate::delivery::Encoding;
use crate::hub::{Command, HeartbeatTimes, Hub, Join, OutboxLimits, ShardConfig, Sink};
use crate::keeper::Keeper;
use crate::metrics::{FeedMetrics, HubMetrics};
use crate::origin::Origins;
use crate::pressure::Lateness;

struct Edge {
    bus: Bus,
    hub: Hub,
    origins: Origins,
    positions: Positions,
    subscriptions: herald_bus::Subscriptions,
    _lagging: mpsc::Receiver<crate::catchup::Lagging>,
}

fn edge() -> Edge {
    let bus = Bus::memory(LogConfig::default());
    let (lagging, _lagging) = mpsc::channel(1);
    let heartbeat = HeartbeatTimes { interval: Duration::from_secs(3_600), timeout: Duration::from_secs(20) };
    let outbox = OutboxLimits { frames_max: 100, bytes_max: 100_000 };
    let (metrics, lateness) = (HubMetrics::new(), Lateness::new());
    let config =
        ShardConfig { heartbeat, outbox, one_clock: true, lagging, metrics, lateness: lateness.clone() };
    let (hub, queues) = Hub::new(1);
    for queues in queues {
        tokio::spawn(crate::hub::run(config.clone(), queues));
    }
    let (positions, origins) = (Positions::default(), Origins::new(bus.clone()));
    let (subscriptions, feed) = bus.feed(FeedLimits::default());
    let (probe, metrics) = (Probe::new("e"), FeedMetrics::new());
    let task = FeedTask {
        bus: bus.clone(),
        hub: hub.clone(),
        origins: origins.clone(),
        positions: positions.clone(),
        probe: probe.clone(),
        keeper: Keeper::new(metrics::gauge!("sessions")),
        condition: Readiness::new().condition("feed", ""),
        metrics: metrics.clone(),
    };
    tokio::spawn(task.run(feed, Shutdown::new()));
    let probing = Probing {
        bus: bus.clone(),
        subscriptions: subscriptions.clone(),
        positions: positions.clone(),
        condition: Readiness::new().condition("probe", ""),
        metrics,
        lateness,
    };
    tokio::spawn(probe.run(probing, Shutdown::new()));
    Edge { bus, hub, origins, positions, subscriptions, _lagging }
}

impl Edge {
    /// A connection in this group since `floor`: what it is sent.
    async fn member(&self, group: &Target, floor: Position) -> mpsc::Receiver<Vec<bytes::Bytes>> {
        let (sink, chunks) = mpsc::channel(64);
        let id = self.hub.open(Encoding::Polling, Sink::Pull(sink)).await.unwrap().id;
        let joins = vec![Join { target: group.clone(), floor, replay: false, joined: floor }];
        self.hub.send(id, Command::Join { id, joins, explicit_acks: false }).await.unwrap();
        chunks
    }

    async fn publish(&self, target: &Target, body: &'static str) -> Position {
        let envelope = Envelope { body: body.into(), reliable: true, ..Envelope::default() }.to_bytes();
        let target = target.clone();
        self.bus
            .publish(&[Publication { target: target.clone(), envelope, reliable: true, message_id: None }])
            .await;
        self.bus.tails(&[target]).await.unwrap()[0]
    }
}

fn group() -> Target {
    Target::group("g", 8).unwrap()
}

async fn next(chunks: &mut mpsc::Receiver<Vec<bytes::Bytes>>) -> String {
    String::from_utf8(chunks.recv().await.unwrap().concat()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_last_message_of_a_channel_that_the_feed_lost_is_found_by_its_log() {
    let edge = edge();
    let mut chunks = edge.member(&group(), Position(1)).await;
    edge.positions.begin([(group(), Position(1))]);
    // nobody is subscribed yet: it is in the log, and the feed does not bring it
    edge.publish(&group(), "\"lost\"").await;
    assert!(next(&mut chunks).await.contains("\"lost\""));
    edge.subscriptions.subscribe(&[group()]).await.unwrap();
    edge.publish(&group(), "\"next\"").await;
    assert!(next(&mut chunks).await.contains("\"next\""), "and nothing comes twice");
}

#[tokio::test(start_paused = true)]
async fn members_are_told_when_the_data_is_new_and_get_what_is_in_it() {
    let edge = edge();
    edge.origins.known().await;
    // it followed another life of the data, whose clock was ahead
    let ahead = Position(u64::MAX / 2);
    let mut chunks = edge.member(&group(), ahead).await;
    edge.positions.begin([(group(), ahead)]);
    edge.publish(&group(), "\"first of the new\"").await;
    edge.origins.set(Epoch(edge.origins.epoch().0 ^ 1));
    assert!(next(&mut chunks).await.contains("gap"));
    assert!(next(&mut chunks).await.contains("first of the new"));
    edge.subscriptions.subscribe(&[group()]).await.unwrap();
    edge.publish(&group(), "\"second\"").await;
    assert!(next(&mut chunks).await.contains("second"));
}
