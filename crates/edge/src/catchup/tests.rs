//! A seeded random driver: one shard, a connection whose reader stalls and resumes, logs, a feed that runs behind them,
//! and catch-ups, interleaved in every order. Whatever the order, the connection gets every reliable message of its
//! channels once and in order of position, and its outbox stays within its bound.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use herald_bus::{Bus, Entry, LogConfig};
use herald_wire::envelope::{Place as LogPlace, append_place};
use herald_wire::{Cursor, Envelope, Position, Target};
use tokio::sync::{mpsc, oneshot};

use super::{Lagging, Place, Read, merge, reconcile};
use crate::delivery::{Delivery, Encoding};
use crate::hub::{
    Class, Command, Connection, Frame, HeartbeatTimes, Hub, Join, OneOfCopies, OutboxLimits, Page, PageDone,
    Shard, ShardConfig, Sink, Standing,
};
use crate::metrics::HubMetrics;
use crate::origin::Origins;

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
        let config =
            ShardConfig { heartbeat, outbox: OUTBOX, one_clock: true, lagging, metrics: HubMetrics::new() };
        let (hub, mut queues) = Hub::new(1);
        let (sink, chunks) = mpsc::channel(1);
        let connection = hub.open(Encoding::Polling, Sink::Pull(sink)).await.unwrap();
        let mut shard = Shard::new(config);
        shard.obey(queues[0].commands.recv().await.unwrap());
        let origins = Origins::new(Bus::memory(LogConfig::default()));
        let logs = ["a", "b", "c"].map(|name| (Target::group(name, 8).unwrap(), Vec::new())).to_vec();
        let random = fastrand::Rng::with_seed(seed);
        let (feed, got) = (VecDeque::new(), Vec::new());
        Self { random, origins, shard, connection, chunks, asking, logs, clock: 0, feed, catch_up: None, got }
    }

    fn join(&mut self, replay: bool) {
        let join = |target: &Target| Join {
            target: target.clone(),
            floor: Position::ZERO,
            replay,
            joined: Position::ZERO,
        };
        let joins = self.logs.iter().map(|(target, _)| join(target)).collect();
        self.shard.obey(Command::Join { id: self.connection.id, joins, explicit_acks: false });
    }

    fn publish(&mut self) {
        self.clock += 1;
        let position = Position(self.clock);
        let at = self.random.usize(0..self.logs.len());
        let (target, log) = &mut self.logs[at];
        let prev = log.last().map_or(Position::ZERO, |entry| entry.position);
        let body = Bytes::from(format!("{{\"n\":{}}}", self.clock));
        let envelope = Envelope { body, reliable: true, ..Envelope::default() }.to_bytes();
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
                assert_eq!(packet.1["n"], cursor.position.0);
                self.got.push(cursor.position.0);
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

#[tokio::test]
async fn a_stalling_reader_gets_everything_once_and_in_order() {
    let mut lagged = 0;
    for seed in 0..150 {
        let mut world = World::new(seed).await;
        let replay = seed % 3 == 0;
        if replay {
            (0..30).for_each(|_| world.publish());
            world.feed.clear();
        }
        world.join(replay);
        for _ in 0..400 {
            world.step();
            lagged += usize::from(world.catch_up.is_some());
        }
        world.settle();
        assert_eq!(world.got, (1..=world.clock).collect::<Vec<_>>(), "seed {seed}");
    }
    assert!(lagged > 0, "no connection ever lagged: the driver shows nothing");
}
