//! A seeded random driver: one shard, a connection whose reader stalls and resumes, logs, a feed that runs behind them,
//! and catch-ups, interleaved in every order. Whatever the order, the connection gets every reliable message of its
//! channels once, also one that came by two of them, and in order of position, and its outbox stays within its bound.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use herald_bus::{Bus, Entry, LogConfig, Publication, Published};
use herald_chassis::Shutdown;
use herald_wire::envelope::{Place as LogPlace, append_place};
use herald_wire::{Cursor, Envelope, Position, Target};
use tokio::sync::{mpsc, oneshot};

use super::{CatchUps, LOOK_BACK, Lagging, Place, READS_MAX, Read, merge, reconcile};
use crate::delivery::{Delivery, Encoding};
use crate::hub::{
    Begin, Class, Command, Connection, Frame, HeartbeatTimes, Hub, Join, OneOfCopies, OutboxLimits, Page,
    PageDone, Shard, ShardConfig, Sink, Standing,
};
use crate::metrics::{CatchUpMetrics, HubMetrics};
use crate::origin::Origins;
use crate::pressure::Lateness;

const LIMIT: usize = 3;
const OUTBOX: OutboxLimits = OutboxLimits { frames_max: 8, bytes_max: 100_000 };

struct World {
    random: fastrand::Rng,
    origins: Origins,
    shard: Shard,
    connection: Arc<Connection>,
    chunks: mpsc::Receiver<Vec<Bytes>>,
    asking: mpsc::Receiver<Lagging>,
    logs: Vec<(Target, Vec<Entry>)>,
    clock: u64,
    /// Published and not yet brought by the feed.
    feed: VecDeque<Arc<Delivery>>,
    catch_up: Option<CatchingUp>,
    due: Vec<u64>,
    got: Vec<u64>,
}

#[derive(Default)]
struct CatchingUp {
    places: Vec<Place>,
    waiting: Option<oneshot::Receiver<PageDone>>,
}

impl World {
    async fn new(seed: u64) -> Self {
        let (lagging, asking) = mpsc::channel(4);
        let heartbeat =
            HeartbeatTimes { interval: Duration::from_secs(25), timeout: Duration::from_secs(20) };
        let (metrics, lateness) = (HubMetrics::new(), Lateness::new());
        let config = ShardConfig { heartbeat, outbox: OUTBOX, one_clock: true, lagging, metrics, lateness };
        let (hub, mut queues) = Hub::new(1);
        let (sink, chunks) = mpsc::channel(1);
        let connection = hub.open(Encoding::Polling, Sink::Pull(sink)).await.unwrap();
        let mut queues = queues.remove(0);
        let mut shard = Shard::new(config, queues.audience);
        shard.obey(queues.commands.recv().await.unwrap());
        let origins = Origins::new(Bus::memory(LogConfig::default()));
        let logs = ["a", "b", "c"].map(|name| (Target::group(name, 8).unwrap(), Vec::new())).to_vec();
        let random = fastrand::Rng::with_seed(seed);
        let (feed, due, got) = (VecDeque::new(), Vec::new(), Vec::new());
        Self {
            random,
            origins,
            shard,
            connection,
            chunks,
            asking,
            logs,
            clock: 0,
            feed,
            catch_up: None,
            due,
            got,
        }
    }

    /// The client has everything up to `floor`.
    fn join(&mut self, floor: u64, replay: bool) {
        self.due.retain(|number| *number > floor);
        let join = |target: &Target| Join {
            target: target.clone(),
            floor: Position(floor),
            replay,
            joined: Position::ZERO,
        };
        let joins = self.logs.iter().map(|(target, _)| join(target)).collect();
        self.shard.obey(Command::Join { id: self.connection.id, joins, explicit_acks: false });
    }

    /// A message, and sometimes a copy of it for another target.
    fn publish(&mut self) {
        let number = self.clock + 1;
        let at = self.random.usize(0..self.logs.len());
        self.due.push(number);
        if self.random.u8(0..4) == 0 {
            self.log(at, (number, number));
            self.log((at + 1) % self.logs.len(), (number, number));
        } else {
            self.log(at, (number, 0));
        }
    }

    fn log(&mut self, at: usize, (number, copies_id): (u64, u64)) {
        self.clock += 1;
        let position = Position(self.clock);
        let (target, log) = &mut self.logs[at];
        let prev = log.last().map_or(Position::ZERO, |entry| entry.position);
        let body = Bytes::from(format!("{{\"n\":{number}}}"));
        let envelope = Envelope { body, copies_id, reliable: true, ..Envelope::default() }.to_bytes();
        let envelope = append_place(&envelope, LogPlace { position, prev });
        log.push(Entry { position, prev, envelope: envelope.clone() });
        self.feed.push_back(Arc::new(Delivery::read(target.clone(), envelope, &self.origins).unwrap()));
    }

    fn feed(&mut self) {
        if let Some(delivery) = self.feed.pop_front() {
            self.shard.deliver(&delivery);
        }
    }

    /// The client reads what was handed over.
    fn read(&mut self) {
        if let Ok(chunk) = self.chunks.try_recv() {
            for packet in chunk {
                let packet: (String, serde_json::Value, String) =
                    serde_json::from_slice(packet.strip_prefix(b"42").unwrap()).unwrap();
                let cursor = Cursor::parse(&packet.2).unwrap();
                let number = packet.1["n"].as_u64().unwrap();
                assert!([0, 1].contains(&(cursor.position.0 - number)), "the message's own, or its copy's");
                self.got.push(number);
            }
            self.shard.unblock(self.connection.id);
        }
    }

    /// One step of the catch-up that is under way, if one is.
    fn catch_up(&mut self) {
        if self.catch_up.is_none() && self.asking.try_recv().is_ok() {
            self.catch_up = Some(CatchingUp::default());
        }
        let Some(mut catching_up) = self.catch_up.take() else { return };
        if let Some(waiting) = &mut catching_up.waiting {
            match waiting.try_recv() {
                Ok(PageDone::Live) => return,
                Ok(PageDone::Continue) => {}
                Err(_) => return self.catch_up = Some(catching_up),
            }
        }
        let id = self.connection.id;
        let (held, mut standing) = oneshot::channel();
        self.shard.obey(Command::Hold { id, held });
        let Standing { targets, .. } = standing.try_recv().unwrap();
        reconcile(&mut catching_up.places, targets);
        // what happens while the read is on its way
        for _ in 0..self.random.usize(0..4) {
            if self.random.bool() { self.publish() } else { self.feed() }
        }
        let page = self.page(&mut catching_up.places);
        for _ in 0..self.random.usize(0..12) {
            if self.random.bool() { self.publish() } else { self.feed() }
        }
        let (done, waiting) = oneshot::channel();
        self.shard.obey(Command::Page { id, page, done });
        catching_up.waiting = Some(waiting);
        self.catch_up = Some(catching_up);
    }

    fn page(&mut self, places: &mut [Place]) -> Page {
        let clock = Position(self.clock);
        let read = |place: &Place| {
            let (_, log) = self.logs.iter().find(|(target, _)| *target == place.target).unwrap();
            let rest = log.iter().filter(|entry| entry.position > place.after).take(LIMIT).cloned();
            Read { entries: rest.collect(), tail: log.last().map_or(Position::ZERO, |entry| entry.position) }
        };
        let reads = places.iter().map(read).collect();
        let merged = merge(places, reads, Some(clock), LIMIT);
        assert_eq!(merged.gaps, []);
        let reached = merged.ended.then(|| places.iter().map(|p| (p.target.clone(), p.after)).collect());
        let frame = |(target, entry): (Target, Entry)| {
            let delivery = Delivery::read(target, entry.envelope, &self.origins).unwrap();
            let class = Class::Reliable { position: entry.position, mailbox: false };
            let frame = Frame { bytes: delivery.frame(Encoding::Polling), class };
            OneOfCopies { copies_id: delivery.copies_id, frame }
        };
        Page { frames: merged.entries.into_iter().map(frame).collect(), reached }
    }

    fn step(&mut self) {
        match self.random.usize(0..12) {
            0..4 => self.publish(),
            4..8 => self.feed(),
            8 => self.catch_up(),
            9..11 => self.shard.flush_slice(),
            _ => self.read(),
        }
    }

    /// Everything calms down, and the client reads on.
    fn settle(&mut self) {
        for _ in 0..20_000 {
            self.feed();
            self.shard.flush_slice();
            self.catch_up();
            self.read();
        }
    }
}

/// Reliable messages in the log of a group, all with the same body, the last with a copy for another group.
async fn logged(bus: &Bus, group: &Target, count: usize) -> Vec<Position> {
    let publication = |copies_id| Publication {
        target: group.clone(),
        envelope: Envelope { body: vec![b'x'; 100].into(), copies_id, reliable: true, ..Envelope::default() }
            .to_bytes(),
        reliable: true,
        message_id: None,
    };
    let all: Vec<_> = (0..count).map(|n| publication(if n + 1 == count { 77 } else { 0 })).collect();
    let position = |published| match published {
        Ok(Published::Logged(position)) => position,
        other => panic!("{other:?}"),
    };
    bus.publish(&all).await.into_iter().map(position).collect()
}

#[tokio::test]
async fn clients_that_take_their_time_hold_up_no_others_catch_up() {
    let bus = Bus::memory(LogConfig::default());
    let group = Target::group("g", 8).unwrap();
    logged(&bus, &group, 200).await;
    let (lagging, asking) = mpsc::channel(1_000);
    let heartbeat = HeartbeatTimes { interval: Duration::from_secs(25), timeout: Duration::from_secs(20) };
    let (metrics, lateness) = (HubMetrics::new(), Lateness::new());
    let config = ShardConfig { heartbeat, outbox: OUTBOX, one_clock: true, lagging, metrics, lateness };
    let (hub, queues) = Hub::new(1);
    for queues in queues {
        tokio::spawn(crate::hub::run(config.clone(), queues));
    }
    let (origins, metrics) = (Origins::new(bus.clone()), CatchUpMetrics::new());
    let catch_ups = CatchUps { bus, hub: hub.clone(), origins, page_bytes_max: 1_000, metrics };
    tokio::spawn(super::run(catch_ups, asking, Shutdown::new()));
    let mut stalled = Vec::new();
    for at in 0..=3 * READS_MAX {
        let (sink, mut chunks) = mpsc::channel(1);
        let id = hub.open(Encoding::Polling, Sink::Pull(sink)).await.unwrap().id;
        let (target, zero) = (group.clone(), Position::ZERO);
        let joins = vec![Join { target, floor: zero, replay: true, joined: zero }];
        hub.send(id, Command::Join { id, joins, explicit_acks: false }).await.unwrap();
        if at < 3 * READS_MAX {
            stalled.push(chunks);
            continue;
        }
        let mut got = 0;
        while got < 200 {
            got += chunks.recv().await.unwrap().len();
        }
    }
}

#[tokio::test]
async fn what_a_session_had_by_another_target_is_looked_for_before_its_place() {
    let bus = Bus::memory(LogConfig::default());
    let group = Target::group("g", 8).unwrap();
    let positions = logged(&bus, &group, 2 * LOOK_BACK).await;
    let last = positions[2 * LOOK_BACK - 1];
    for (after, joined, found) in [
        (last, Position::ZERO, true),
        (Position(last.0 + 100), positions[2 * LOOK_BACK - 2], true),
        (Position(last.0 - 1), Position::ZERO, false),
        // the copy was published before it joined this one, so the other is due
        (Position(last.0 + 100), last, false),
    ] {
        let begun = [Begin { target: group.clone(), after, joined }];
        let copies = super::look_back(&bus, &begun).await.unwrap();
        assert_eq!(copies.contains(&77), found, "{after} {joined}");
    }
}

#[tokio::test]
async fn a_stalling_reader_gets_everything_once_and_in_order() {
    let mut lagged = 0;
    for seed in 0..150 {
        let mut world = World::new(seed).await;
        let replay = seed % 3 == 0;
        let mut floor = 0;
        if replay {
            (0..30).for_each(|_| world.publish());
            // a session that had some of it already, on an edge whose feed is behind even that
            floor = world.due[world.random.usize(0..30)] - 1;
            (0..world.random.usize(0..20)).for_each(|_| drop(world.feed.pop_front()));
        }
        world.join(floor, replay);
        for _ in 0..400 {
            world.step();
            lagged += usize::from(world.catch_up.is_some());
        }
        world.settle();
        assert_eq!(world.got, world.due, "seed {seed}");
    }
    assert!(lagged > 0, "no connection ever lagged: the driver shows nothing");
}
