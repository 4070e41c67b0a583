//! One shard's state: its connections, their channels, and what is to be flushed. Synchronous: [`super::run`] feeds it.
//!
//! A message is first appended to the outbox of every connection it is for (cheap), and the outboxes touched are then
//! written in slices (a system call each). So a message for fifteen thousand connections delays another channel's
//! message by one slice, while every connection still gets its frames in the order of the feed; and what arrives
//! faster than it can be written leaves as fewer, larger writes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use herald_wire::{Position, Target, TargetKind};
use slab::Slab;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::audience::ShardAudience;
use super::heartbeat::{Due, Heartbeat};
use super::outbox::{Class, Frame, Pushed, Written};
use super::passes::{Moment, Passes};
use super::rhythm::Rhythm;
use super::sink::{Flushed, Sink};
use super::slot::{Admitted, Membership, Slot};
use super::{
    Begin, CloseReason, Command, Connection, ConnectionId, Join, Page, PageDone, Parting, ShardConfig,
    Signal, Standing,
};
use crate::catchup::Lagging;
use crate::delivery::{self, Delivery, Encoding};
use crate::frame;

/// Connections with a channel of more subscribers than this are flushed behind the others.
const LARGE_CHANNEL: usize = 256;
/// Outboxes written before the shard looks at its queues again.
const SLICE: usize = 64;

type Key = usize;

pub(crate) struct Shard {
    config: ShardConfig,
    /// Where the hub counted each member before this shard was told to join it: told of each that is gone.
    audience: ShardAudience,
    slots: Slab<Slot>,
    keys: HashMap<ConnectionId, Key, RandomState>,
    channels: Slab<Channel>,
    by_target: HashMap<Target, u32, RandomState>,
    dirty: [VecDeque<Key>; 2],
    rhythms: [Rhythm; 2],
    heartbeat: Heartbeat,
    passes: Passes,
    marks: HashMap<Target, Position, RandomState>,
    /// One future for each connection whose sink takes no more for now.
    pub(crate) blocked: FuturesUnordered<BoxFuture<'static, ConnectionId>>,
}

struct Channel {
    target: Target,
    subscribers: Vec<u32>,
}

/// Indexes of [`Shard::dirty`].
const SMALL: usize = 0;
const LARGE: usize = 1;

impl Shard {
    pub(crate) fn new(config: ShardConfig, audience: ShardAudience) -> Self {
        Self {
            heartbeat: Heartbeat::new(config.heartbeat),
            passes: Passes::new(config.lateness.clone(), &config.metrics),
            config,
            audience,
            slots: Slab::new(),
            keys: HashMap::default(),
            channels: Slab::new(),
            by_target: HashMap::default(),
            dirty: [VecDeque::new(), VecDeque::new()],
            rhythms: [Rhythm::default(), Rhythm::default()],
            marks: HashMap::default(),
            blocked: FuturesUnordered::new(),
        }
    }

    /// When there is something to write: now or earlier, or when the rest of a queue is over.
    pub(crate) fn next_write(&self, now: Instant) -> Option<Instant> {
        let queues = self.dirty.iter().zip(&self.rhythms).filter(|(dirty, _)| !dirty.is_empty());
        queues.map(|(_, rhythm)| rhythm.rest_until().unwrap_or(now)).min()
    }

    pub(crate) fn next_heartbeat(&self) -> Option<Instant> {
        self.heartbeat.next()
    }

    pub(crate) fn obey(&mut self, command: Command) {
        match command {
            Command::Open { connection, encoding, sink } => self.open(connection, encoding, sink),
            Command::Join { id, joins, explicit_acks } => match self.keys.get(&id) {
                Some(&key) => {
                    self.slots[key].explicit_acks |= explicit_acks;
                    self.join(key, joins);
                }
                None => joins.iter().for_each(|join| self.audience.left(&join.target)),
            },
            Command::Leave { id, targets } => {
                self.with_slot(id, |shard, key| targets.iter().for_each(|target| shard.leave(key, target)));
            }
            Command::Send { id, bytes } => self.with_slot(id, |shard, key| shard.control(key, bytes)),
            Command::Switch { id, encoding, sink, first } => {
                self.with_slot(id, |shard, key| shard.switch(key, encoding, sink, first));
            }
            Command::Hold { id, held } => self.with_slot(id, |shard, key| shard.hold(key, held)),
            Command::Page { id, page, done } => self.with_slot(id, |shard, key| shard.page(key, page, done)),
            Command::Close { id, farewell, parting } => {
                let _ = parting.send(self.close(id, farewell));
            }
            Command::Mark { id, mark } => {
                let _ = mark.send(self.slot(id).and_then(|slot| slot.mailbox_written));
            }
            Command::TakeMarks { marks } => {
                let _ = marks.send(self.marks.drain().collect());
            }
        }
    }

    /// Appends a message to the outbox of every connection it is for. Returns for how many.
    pub(crate) fn deliver(&mut self, delivery: &Delivery) -> usize {
        let Some(&channel) = self.by_target.get(&delivery.target) else { return 0 };
        let now = Instant::now();
        self.config.metrics.queue.record(now.duration_since(delivery.received_at));
        let subscribers = &self.channels[channel as usize].subscribers;
        let queue = usize::from(subscribers.len() > LARGE_CHANNEL);
        let metrics = &self.config.metrics;
        let (mut queued, mut held) = (0, 0);
        for &key in subscribers {
            let key = key as Key;
            let slot = &mut self.slots[key];
            if let Some(position) = delivery.begins_anew
                && !slot.begin_anew(channel, position)
            {
                slot.connection.signal(Signal::Close(CloseReason::Unavailable));
            }
            match slot.admit(delivery, channel, &self.config.outbox) {
                Admitted::Queued { evicted } => {
                    queued += 1;
                    if evicted > 0 {
                        metrics.dropped_outbox.increment(evicted as u64);
                    }
                    if let (false, Some(place)) = (self.config.one_clock, delivery.place) {
                        slot.move_floor(channel, place.position);
                    }
                    if slot.touch(queue) {
                        self.dirty[queue].push_back(key);
                    }
                }
                Admitted::Held => held += 1,
                Admitted::Dropped => {
                    held += 1;
                    metrics.dropped_outbox.increment(1);
                }
                Admitted::Missed => {
                    held += 1;
                    metrics.dropped_lagging.increment(1);
                }
                Admitted::Later { dropped } => metrics.dropped_lagging.increment(dropped as u64),
                Admitted::Lags => metrics.lagged.increment(1),
                Admitted::Known => {}
            }
        }
        let appended = Moment { now, rested: self.rhythms[queue].rested(now) };
        self.passes.appended(queue, delivery.received_at, appended, self.dirty[queue].len());
        match delivery.place {
            Some(_) => metrics.offered(0, queued),
            None if !delivery.is_gap() => metrics.offered(queued + held, 0),
            None => {}
        }
        subscribers.len()
    }

    /// Writes a slice of the outboxes touched: those with small channels first, then some of the others.
    pub(crate) fn flush_slice(&mut self) {
        for queue in [SMALL, LARGE] {
            let count = self.rhythms[queue].due(self.dirty[queue].len(), Instant::now()).min(SLICE);
            for _ in 0..count {
                let Some(key) = self.dirty[queue].pop_front() else { break };
                if self.slots.get_mut(key).is_some_and(|slot| slot.untouch(queue)) {
                    self.flush(key);
                }
            }
            if count > 0 {
                let now = Instant::now();
                let rested = self.rhythms[queue].rested(now);
                self.passes.turned(queue, count, Moment { now, rested });
                self.rhythms[queue].wrote(count, now);
            }
        }
    }

    /// The sink of this connection may take more now.
    pub(crate) fn unblock(&mut self, id: ConnectionId) {
        self.with_slot(id, |shard, key| {
            shard.slots[key].blocked = false;
            shard.flush(key);
        });
    }

    /// Pings who is due, and ends who has gone silent.
    pub(crate) fn beat(&mut self, now: Instant) {
        while let Some(due) = self.heartbeat.pop(now) {
            match due {
                Due::Ping(id) => self.with_slot(id, |shard, key| shard.ping(key, now)),
                Due::Answer(id) => {
                    if let Some(slot) = self.slot(id).filter(|slot| !slot.connection.was_heard()) {
                        slot.connection.signal(Signal::Close(CloseReason::PingTimeout));
                    }
                }
            }
        }
    }

    fn slot(&mut self, id: ConnectionId) -> Option<&mut Slot> {
        self.keys.get(&id).map(|&key| &mut self.slots[key])
    }

    /// A command for a connection that has just closed is no error: its sender will hear of it.
    fn with_slot(&mut self, id: ConnectionId, then: impl FnOnce(&mut Self, Key)) {
        if let Some(&key) = self.keys.get(&id) {
            then(self, key);
        }
    }

    fn open(&mut self, connection: Arc<Connection>, encoding: Encoding, sink: Sink) {
        let id = connection.id;
        self.heartbeat.schedule(id, Instant::now());
        let key = self.slots.insert(Slot::new(connection, encoding, sink));
        self.keys.insert(id, key);
    }

    fn join(&mut self, key: Key, joins: Vec<Join>) {
        let mut replays = Vec::new();
        for Join { target, floor, replay, joined } in joins {
            if self.membership(key, &target).is_some() {
                self.audience.left(&target);
                continue;
            }
            let slot = &mut self.slots[key];
            if let TargetKind::Socket(_) = target.kind() {
                slot.mailbox = Some(target.clone());
            }
            if replay {
                replays.push(Begin { target: target.clone(), after: floor, joined });
            }
            let channel = *self.by_target.entry(target).or_insert_with_key(|target| {
                self.channels.insert(Channel { target: target.clone(), subscribers: Vec::new() }) as u32
            });
            let subscribers = &mut self.channels[channel as usize].subscribers;
            let membership = Membership { channel, index: subscribers.len() as u32, floor };
            slot.memberships.push(membership);
            slot.set_floor(slot.memberships.len() - 1, floor);
            subscribers.push(key as u32);
        }
        let slot = &mut self.slots[key];
        slot.memberships.shrink_to_fit();
        if !replays.is_empty() {
            slot.lag_from(replays);
            self.flush(key);
        }
    }

    fn leave(&mut self, key: Key, target: &Target) {
        let Some(at) = self.membership(key, target) else { return };
        let slot = &mut self.slots[key];
        let membership = slot.memberships.swap_remove(at);
        if slot.mailbox.as_ref() == Some(target) {
            slot.mailbox = None;
        }
        self.unsubscribe(membership);
    }

    /// Which of the connection's memberships is of this target.
    fn membership(&self, key: Key, target: &Target) -> Option<usize> {
        let channel = *self.by_target.get(target)?;
        self.slots[key].memberships.iter().position(|m| m.channel == channel)
    }

    fn unsubscribe(&mut self, left: Membership) {
        let channel = &mut self.channels[left.channel as usize];
        self.audience.left(&channel.target);
        channel.subscribers.swap_remove(left.index as usize);
        if let Some(&moved) = channel.subscribers.get(left.index as usize) {
            let memberships = &mut self.slots[moved as usize].memberships;
            if let Some(m) = memberships.iter_mut().find(|m| m.channel == left.channel) {
                m.index = left.index;
            }
        }
        if channel.subscribers.is_empty() {
            let channel = self.channels.remove(left.channel as usize);
            self.by_target.remove(&channel.target);
        } else if channel.subscribers.capacity() > 4 * channel.subscribers.len() {
            channel.subscribers.shrink_to_fit();
        }
    }

    fn hold(&mut self, key: Key, held: oneshot::Sender<Standing>) {
        let Some(dropped) = self.slots[key].hold() else { return };
        self.config.metrics.dropped_lagging.increment(dropped as u64);
        let memberships = self.slots[key].memberships.clone();
        let mut targets = Vec::with_capacity(memberships.len());
        for Membership { channel, floor, .. } in memberships {
            let target = self.channels[channel as usize].target.clone();
            let slot = &mut self.slots[key];
            // where each target has a clock of its own, its floor moves with it
            let stands = if self.config.one_clock { slot.position().max(floor) } else { floor };
            targets.push(slot.begin(&target, stands));
        }
        // a catch-up whose task is gone is no reason to fail
        let _ = held.send(Standing { position: self.slots[key].position(), targets });
    }

    fn control(&mut self, key: Key, bytes: Bytes) {
        let slot = &mut self.slots[key];
        let frame = Frame { bytes, class: Class::Control };
        if slot.outbox.push(frame, &self.config.outbox) == Pushed::Full {
            slot.connection.signal(Signal::Close(CloseReason::NotReading));
        } else if slot.touch(SMALL) {
            self.dirty[SMALL].push_back(key);
        }
    }

    fn ping(&mut self, key: Key, now: Instant) {
        let slot = &mut self.slots[key];
        let id = slot.connection.id;
        if slot.encoding != Encoding::Events {
            // an event stream is one way: nobody can answer
            slot.connection.ask();
            self.heartbeat.expect_answer(id, now);
        }
        let ping = delivery::ping(slot.encoding);
        self.heartbeat.schedule(id, now);
        self.control(key, ping);
    }

    /// From polling to a WebSocket: packets become frames.
    fn switch(&mut self, key: Key, encoding: Encoding, sink: Sink, first: Vec<Bytes>) {
        let slot = &mut self.slots[key];
        slot.outbox.put_back(first);
        if slot.encoding == Encoding::Polling && encoding == Encoding::SocketIo {
            slot.outbox.map(|packet| frame::text(packet));
        }
        (slot.encoding, slot.sink, slot.blocked) = (encoding, sink, false);
        self.flush(key);
    }

    fn page(&mut self, key: Key, page: Page, done: oneshot::Sender<PageDone>) {
        let ShardConfig { outbox, metrics, .. } = &self.config;
        if let Some(reached) = self.slots[key].page(page, done, (outbox, metrics)) {
            for (target, floor) in reached {
                if let Some(at) = self.membership(key, &target) {
                    self.slots[key].set_floor(at, floor);
                }
            }
        }
        self.flush(key);
    }

    fn flush(&mut self, key: Key) {
        let slot = &mut self.slots[key];
        if slot.blocked {
            return;
        }
        let mut written = Written::default();
        let flushed = slot.sink.flush(&mut slot.outbox, &mut written);
        self.config.metrics.delivered(written.volatile, written.reliable);
        if let (Some(position), Some(target), false) = (written.mailbox, &slot.mailbox, slot.explicit_acks) {
            slot.mailbox_written = Some(position);
            self.marks.insert(target.clone(), position);
        }
        match flushed {
            Flushed::Empty => {
                if slot.drained() {
                    let lagging = Lagging { id: slot.connection.id, encoding: slot.encoding };
                    if self.config.lagging.try_send(lagging).is_err() {
                        // one place for each connection: full only when the process ends
                        slot.connection.signal(Signal::Close(CloseReason::Unavailable));
                    }
                }
            }
            Flushed::Gone => {}
            Flushed::Failed => slot.connection.signal(Signal::Close(CloseReason::WriteFailed)),
            Flushed::Blocked => {
                slot.blocked = true;
                let (id, sink) = (slot.connection.id, slot.sink.clone());
                self.blocked.push(Box::pin(async move {
                    sink.ready().await;
                    id
                }));
            }
        }
    }

    fn close(&mut self, id: ConnectionId, farewell: Bytes) -> Parting {
        let Some(key) = self.keys.remove(&id) else { return Parting::default() };
        if !farewell.is_empty() {
            let slot = &mut self.slots[key];
            slot.outbox.append(Frame { bytes: farewell, class: Class::Control });
        }
        self.flush(key);
        let slot = self.slots.remove(key);
        let (volatile, reliable) = slot.left();
        self.config.metrics.abandoned(volatile, reliable);
        for membership in slot.memberships {
            self.unsubscribe(membership);
        }
        Parting { mailbox: slot.mailbox_written }
    }
}
