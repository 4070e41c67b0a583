//! One thread's loop: sockets that are ready, orders, and what is due by time. Everything a client needs that is not its
//! own (read buffer, histograms) is here once.

use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use mio::{Events, Interest, Poll, Token, Waker};
use tokio::sync::mpsc as replies;

use super::dial::Dials;
use super::link::{Attended, Link};
use super::{Order, Reply, Sample, Settlement, share};
use crate::client::{Around, Client, Ended};
use crate::clock::now_us;
use crate::frame::FRAME_BYTES_MAX;
use crate::mark::MarkFinder;
use crate::plan::{Plan, Round};
use crate::tally::Tally;

const WAKE: Token = Token(usize::MAX);
const EVENTS_AT_ONCE: usize = 1024;
/// Connections being opened at once by one thread.
const DIALS_MAX: usize = 256;
/// How long connecting may take until it counts as failed.
const DIAL_US_MAX: u64 = 20_000_000;
/// How often time is looked at when nothing else happens.
const TICK: Duration = Duration::from_millis(100);
const TICK_US: u64 = 100_000;
/// Looking at everybody takes so many ticks, unless some stall and are to be woken in time: it seldom finds anything.
const TICKS_FOR_ALL: usize = 10;
/// The longest silence of a server that announces none.
const SILENCE_US_MAX: u64 = 60_000_000;

pub(super) struct Worker {
    plan: Arc<Plan>,
    poll: Poll,
    waker: Arc<Waker>,
    orders: mpsc::Receiver<Order>,
    answers: replies::Sender<Reply>,
    slots: Vec<Slot>,
    dials: Dials,
    dialling: usize,
    /// Sockets that had more than their share to read.
    again: Vec<usize>,
    round: Option<Arc<Round>>,
    tally: Tally,
    tools: Tools,
    /// The longest silence that the server announced.
    announced_us: Option<u64>,
    threads: usize,
    times: Timetable,
    trouble: Option<String>,
}

/// What is used for one socket after another.
struct Tools {
    buffer: Vec<u8>,
    out: Vec<u8>,
    finder: MarkFinder,
}

/// What happens next by time alone.
#[derive(Debug, Default)]
struct Timetable {
    tick_us: u64,
    /// Who is looked at in the next tick: every so manyth of the clients, from here.
    turn: usize,
    churn_us: Option<u64>,
    storm_us: Option<u64>,
}

struct Slot {
    client: Client,
    link: Option<Link>,
    dialled_us: u64,
    heard_us: u64,
    attempts: u32,
    stall: Stall,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stall {
    /// Reads all the time.
    No,
    /// Does not read before then, once it is registered.
    Until(u64),
}

impl Worker {
    pub(super) fn new(
        plan: &Arc<Plan>,
        place: (usize, usize),
        orders: mpsc::Receiver<Order>,
        answers: replies::Sender<Reply>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let mut dials = Dials::default();
        let start_us = now_us();
        let slots: Vec<Slot> = share(&plan.cast, place)
            .enumerate()
            .map(|(slot, number)| {
                let order = f64::from(number - plan.cast.first);
                dials.at(start_us + (order * 1e6 / plan.connect_rate) as u64, slot);
                Slot::new(number, plan.behaviour.stalled)
            })
            .collect();
        Ok(Self {
            plan: plan.clone(),
            poll,
            waker,
            orders,
            answers,
            slots,
            dials,
            dialling: 0,
            again: Vec::new(),
            round: None,
            tally: Tally::default(),
            tools: Tools {
                buffer: vec![0; FRAME_BYTES_MAX + 64 * 1024],
                out: Vec::new(),
                finder: MarkFinder::new(),
            },
            announced_us: None,
            threads: place.1,
            times: Timetable::default(),
            trouble: None,
        })
    }

    pub(super) fn waker(&self) -> Arc<Waker> {
        self.waker.clone()
    }

    /// Until nobody gives orders any more.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_AT_ONCE);
        loop {
            if let Err(error) = self.poll.poll(&mut events, Some(self.patience()))
                && error.kind() != io::ErrorKind::Interrupted
            {
                return;
            }
            for event in &events {
                if event.token() != WAKE {
                    let slot = event.token().0;
                    if event.is_writable() {
                        self.writable(slot);
                    }
                    if event.is_readable() || event.is_read_closed() || event.is_error() {
                        self.readable(slot, event.is_read_closed() || event.is_error());
                    }
                }
            }
            for slot in std::mem::take(&mut self.again) {
                self.readable(slot, false);
            }
            if !self.obey() {
                return;
            }
            self.keep_time(now_us());
        }
    }

    fn patience(&self) -> Duration {
        if !self.again.is_empty() {
            return Duration::ZERO;
        }
        let dial = self.dials.next_at().filter(|_| self.dialling < DIALS_MAX);
        let next = [dial, self.times.churn_us, self.times.storm_us].into_iter().flatten().min();
        next.map_or(TICK, |at_us| crate::clock::until(at_us).min(TICK))
    }

    /// `false` when there will be no more orders.
    fn obey(&mut self) -> bool {
        loop {
            let reply = match self.orders.try_recv() {
                Ok(Order::Begin(round)) => Reply::Begun(Box::new(self.begin(Arc::new(round)))),
                Ok(Order::Sample) => Reply::Sample(Box::new(self.sample())),
                Ok(Order::Outstanding(sent)) => Reply::Outstanding(self.outstanding(&sent)),
                Ok(Order::Settle(settlement)) => Reply::Settled(Box::new(self.settle(&settlement))),
                Err(mpsc::TryRecvError::Empty) => return true,
                Err(mpsc::TryRecvError::Disconnected) => return false,
            };
            if self.answers.blocking_send(reply).is_err() {
                return false;
            }
        }
    }

    fn begin(&mut self, round: Arc<Round>) -> Tally {
        let stall_us = self.plan.behaviour.stall.as_micros() as u64;
        for slot in &mut self.slots {
            let is_due = slot.stall == Stall::No || stall_us > 0;
            slot.client.begin(&round, &self.plan.cast, is_due);
            if slot.stall != Stall::No && stall_us > 0 {
                slot.stall = Stall::Until(round.measure_from_us + stall_us);
            }
        }
        let churns = self.plan.behaviour.churn_rate > 0.0;
        self.times.churn_us = churns.then_some(round.measure_from_us);
        self.times.storm_us = round.storm.map(|storm| storm.at_us);
        let before = std::mem::replace(&mut self.tally, Tally::new(round.streams.len()));
        self.round = Some(round);
        before
    }

    fn sample(&mut self) -> Sample {
        let mut sample = Sample {
            registered: self.slots.iter().filter(|slot| slot.client.is_live()).count() as u64,
            events: self.tally.events,
            trouble: self.trouble.take(),
            ..Sample::default()
        };
        for stream in &self.tally.streams {
            sample.received += stream.received;
            sample.latency.add(&stream.latency);
        }
        sample
    }

    fn outstanding(&self, sent: &[u64]) -> Vec<u64> {
        let mut all = vec![0; sent.len()];
        if let Some(round) = &self.round {
            for (stream, count) in self.slots.iter().flat_map(|slot| slot.client.outstanding(round, sent)) {
                all[stream] += count;
            }
        }
        all
    }

    /// The round's tally; what comes from now on is a stray.
    fn settle(&mut self, settlement: &Settlement) -> Tally {
        let mut tally = std::mem::take(&mut self.tally);
        let Some(round) = self.round.take() else { return tally };
        self.times.churn_us = None;
        self.times.storm_us = None;
        for slot in &mut self.slots {
            for (stream, account) in slot.client.settle(&round, settlement) {
                if let Some(stream) = tally.streams.get_mut(stream) {
                    stream.account.add(&account);
                }
            }
        }
        tally
    }

    fn keep_time(&mut self, now_us: u64) {
        while self.dialling < DIALS_MAX
            && let Some(slot) = self.dials.next(now_us)
        {
            self.dial(slot, now_us);
        }
        if self.times.storm_us.is_some_and(|at| at <= now_us) {
            self.times.storm_us = None;
            self.storm(now_us);
        }
        while let Some(at_us) = self.times.churn_us.filter(|at| *at <= now_us) {
            let every_us = 1e6 * self.threads as f64 / self.plan.behaviour.churn_rate;
            let is_over = self.round.as_ref().is_none_or(|round| at_us >= round.end_us);
            self.times.churn_us = (!is_over).then_some(at_us + every_us.max(1.0) as u64);
            if !is_over {
                self.churn(now_us);
            }
        }
        if self.times.tick_us <= now_us {
            self.times.tick_us = now_us + TICK_US;
            self.look_around(now_us);
        }
    }

    /// Gives up on what takes too long, and wakes who has stalled long enough.
    fn look_around(&mut self, now_us: u64) {
        let silence_us = match self.plan.behaviour.silence {
            Some(silence) => silence.as_micros() as u64,
            None => self.announced_us.unwrap_or(SILENCE_US_MAX),
        };
        let ticks = if self.plan.behaviour.stall.is_zero() { TICKS_FOR_ALL } else { 1 };
        self.times.turn = (self.times.turn + 1) % ticks;
        for index in (self.times.turn..self.slots.len()).step_by(ticks) {
            let slot = &mut self.slots[index];
            if slot.link.is_none() {
                continue;
            }
            if let Stall::Until(until_us) = slot.stall {
                if until_us <= now_us {
                    slot.stall = Stall::No;
                    self.readable(index, false);
                }
                continue;
            }
            let is_slow = !slot.client.is_live() && now_us.saturating_sub(slot.dialled_us) > DIAL_US_MAX;
            let is_silent = silence_us > 0 && now_us.saturating_sub(slot.heard_us) > silence_us;
            if is_slow || is_silent {
                self.end(index, &Ended::Answer("nothing for too long".into()));
            }
        }
    }

    fn storm(&mut self, now_us: u64) {
        let Some(storm) = self.round.as_ref().and_then(|round| round.storm) else { return };
        for index in 0..self.slots.len() {
            if self.slots[index].client.is_live() && fastrand::f64() < storm.share {
                self.cut(index);
                self.dials.at(now_us + (fastrand::f64() * storm.spread_us as f64) as u64, index);
            }
        }
    }

    fn churn(&mut self, now_us: u64) {
        let Some(index) = (!self.slots.is_empty()).then(|| fastrand::usize(..self.slots.len())) else {
            return;
        };
        let slot = &mut self.slots[index];
        if slot.client.is_live() && slot.stall == Stall::No {
            slot.client.forget();
            self.cut(index);
            self.dials.at(now_us, index);
        }
    }

    fn dial(&mut self, index: usize, now_us: u64) {
        let slot = &mut self.slots[index];
        let edges = &self.plan.edges;
        let turn = self.plan.cast.turn(slot.client.number).wrapping_add(slot.attempts);
        let edge = edges[turn as usize % edges.len()];
        let source = self.plan.source_of(slot.client.number);
        let dialled = Link::dial(edge, source, slot.stall != Stall::No).and_then(|mut link| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut link.stream, Token(index), interest)?;
            Ok(link)
        });
        slot.dialled_us = now_us;
        slot.heard_us = now_us;
        self.dialling += 1;
        match dialled {
            Ok(link) => slot.link = Some(link),
            Err(error) => self.end(index, &Ended::Answer(format!("cannot connect to {edge}: {error}"))),
        }
    }

    fn writable(&mut self, index: usize) {
        let Some(link) = &mut self.slots[index].link else { return };
        match link.writable() {
            Ok(true) => self.converse(index, |slot, _, around| {
                let host = slot.link.as_ref().and_then(|link| link.stream.peer_addr().ok());
                slot.client.open(around, &host.map(|host| host.to_string()).unwrap_or_default());
                Attended::Idle
            }),
            Ok(false) => {}
            Err(error) => self.end(index, &Ended::Answer(error.to_string())),
        }
    }

    fn readable(&mut self, index: usize, is_closing: bool) {
        let slot = &self.slots[index];
        if slot.stall != Stall::No && slot.client.is_live() && !is_closing {
            return;
        }
        self.converse(index, |slot, buffer, around| match &mut slot.link {
            Some(link) => link.readable((buffer, is_closing), &mut slot.client, around),
            None => Attended::Idle,
        });
    }

    /// Lets a client speak, sends what it says, and sees to what became of it.
    fn converse(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Slot, &mut [u8], &mut Around<'_>) -> Attended,
    ) {
        let slot = &mut self.slots[index];
        let was_live = slot.client.is_live();
        self.tools.out.clear();
        let mut around = Around {
            protocol: self.plan.protocol,
            resume: self.plan.behaviour.resume,
            cast: &self.plan.cast,
            round: self.round.as_deref(),
            tally: &mut self.tally,
            finder: &mut self.tools.finder,
            out: &mut self.tools.out,
            announced_us: &mut self.announced_us,
            now_us: now_us(),
        };
        let mut attended = act(slot, &mut self.tools.buffer, &mut around);
        slot.heard_us = around.now_us;
        if !self.tools.out.is_empty()
            && let Some(link) = &mut slot.link
            && let Err(error) = link.write(&self.tools.out)
        {
            attended = Attended::Ended(Ended::Answer(error.to_string()));
        }
        if !was_live && slot.client.is_live() {
            self.tally.connects.record(slot.heard_us - slot.dialled_us);
            slot.attempts = 0;
            self.dialling -= 1;
        }
        match attended {
            Attended::Idle => {}
            Attended::More => self.again.push(index),
            Attended::Ended(ended) => self.end(index, &ended),
        }
    }

    /// A connection ended, or did not come about: the client tries again elsewhere.
    fn end(&mut self, index: usize, ended: &Ended) {
        if self.slots[index].client.is_live() {
            self.tally.events.disconnected += 1;
        } else {
            self.tally.events.connect_failed += 1;
        }
        self.trouble = Some(ended.to_string());
        let attempts = self.slots[index].attempts;
        self.slots[index].attempts += 1;
        self.drop_link(index);
        self.dials.again(now_us(), index, (attempts, fastrand::f64()));
    }

    /// Cuts a live connection on purpose.
    fn cut(&mut self, index: usize) {
        self.tally.events.cut += 1;
        self.drop_link(index);
    }

    fn drop_link(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if !slot.client.is_live() {
            self.dialling -= 1;
        }
        // closing the socket takes it out of the poll
        slot.link = None;
        let resume = self.plan.behaviour.resume.then_some(self.plan.protocol);
        slot.client.lost(resume, self.round.as_deref());
    }
}

impl Slot {
    fn new(number: u32, stalled: f64) -> Self {
        // evenly among the clients: of every tenth it is the tenth
        let among = |count: u32| (f64::from(count) * stalled) as u64;
        let stall = if among(number + 1) > among(number) { Stall::Until(u64::MAX) } else { Stall::No };
        Self { client: Client::new(number), link: None, dialled_us: 0, heard_us: 0, attempts: 0, stall }
    }
}
