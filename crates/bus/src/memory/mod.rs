//! The bus within one process: one lock around plain data, no tasks. Its semantics are those of Redis' scripts
//! (`on_redis`); what is kept, and for how long, is `store`'s.

mod expiring;
mod store;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use herald_wire::{Epoch, Position, Target};
use tokio::time::Instant;

use crate::feed::{Carrier, Feed, Subscriptions};
use crate::metrics::Metrics;
use crate::queue::{FeedQueue, Interruption, Source};
use crate::{BusError, Entry, FeedLimits, LogConfig, Publication, Published};
use store::Store;

/// The bus within this process.
#[derive(Debug)]
pub struct Memory {
    epoch: Epoch,
    clock: Clock,
    store: Mutex<Store>,
    metrics: Metrics,
}

impl Memory {
    pub(crate) fn new(config: LogConfig) -> Self {
        Self {
            epoch: Epoch(fastrand::u32(1..)),
            clock: Clock::start(),
            store: Mutex::new(Store::new(config)),
            metrics: Metrics::new(),
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn publish(&self, batch: &[Publication]) -> Vec<Result<Published, BusError>> {
        let started = Instant::now();
        let now_us = self.clock.now_us();
        let mut store = self.lock();
        let answers: Vec<_> =
            batch.iter().map(|publication| Ok(store.publish(publication, now_us))).collect();
        drop(store);
        self.metrics.published(&answers, started.elapsed());
        answers
    }

    pub(crate) fn feed(bus: &Arc<Self>, limits: FeedLimits) -> (Subscriptions, Feed) {
        let queue = Arc::new(FeedQueue::new(limits, bus.metrics.clone()));
        queue.interrupted(Interruption::Started);
        let reader = Reader { queue: queue.clone(), source: Arc::new(Source::new()) };
        let subscriptions = MemorySubscriptions { bus: bus.clone(), reader };
        (Subscriptions(Carrier::Memory(subscriptions)), Feed { queue, _task: None })
    }

    pub(crate) fn read_logs(&self, from: &[(Target, Position)], limit: usize) -> Vec<Vec<Entry>> {
        let now_us = self.clock.now_us();
        let mut store = self.lock();
        store.expire(now_us);
        from.iter().map(|(target, after)| store.read_log(target, *after, limit)).collect()
    }

    pub(crate) fn read_logs_back(&self, upto: &[(Target, Position)], limit: usize) -> Vec<Vec<Entry>> {
        let now_us = self.clock.now_us();
        let mut store = self.lock();
        store.expire(now_us);
        upto.iter().map(|(target, upto)| store.read_log_back(target, *upto, limit)).collect()
    }

    pub(crate) fn tails(&self, targets: &[Target]) -> Vec<Position> {
        let now_us = self.clock.now_us();
        let mut store = self.lock();
        store.expire(now_us);
        targets.iter().map(|target| store.tail(target)).collect()
    }

    pub(crate) fn last_given(&self) -> Position {
        self.lock().clock()
    }

    pub(crate) fn save_session(&self, pid: &str, record: Bytes, ttl: Duration) {
        let now_us = self.clock.now_us();
        self.lock().sessions.put(pid.to_owned(), record, now_us, ttl);
    }

    pub(crate) fn touch_sessions(&self, pids: &[String], ttl: Duration) -> Vec<String> {
        let now_us = self.clock.now_us();
        let mut store = self.lock();
        let gone = |pid: &&String| !store.sessions.touch(pid.as_str(), now_us, ttl);
        pids.iter().filter(gone).cloned().collect()
    }

    pub(crate) fn load_session(&self, pid: &str) -> Option<Bytes> {
        let now_us = self.clock.now_us();
        self.lock().sessions.get(pid, now_us).cloned()
    }

    pub(crate) fn save_holder(&self, target: &Target, pid: &str, ttl: Duration) {
        let now_us = self.clock.now_us();
        self.lock().holders.put(target.clone(), pid.to_owned(), now_us, ttl);
    }

    pub(crate) fn load_holder(&self, target: &Target) -> Option<String> {
        let now_us = self.clock.now_us();
        self.lock().holders.get(target.as_str(), now_us).cloned()
    }

    pub(crate) fn save_sent(&self, marks: &[(Target, Position)], ttl: Duration) {
        let now_us = self.clock.now_us();
        let mut store = self.lock();
        for (target, position) in marks {
            let held = store.sent.get(target.as_str(), now_us).copied().unwrap_or_default();
            store.sent.put(target.clone(), held.max(*position), now_us, ttl);
        }
    }

    pub(crate) fn load_sent(&self, target: &Target) -> Position {
        let now_us = self.clock.now_us();
        self.lock().sent.get(target.as_str(), now_us).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        // a panic while it was held leaves at worst one publication half done: logged and not sent
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wall clock of the start, moved on by the runtime's clock: never back, and still where a test pauses it.
#[derive(Debug)]
struct Clock {
    wall_us: u64,
    start: Instant,
}

impl Clock {
    fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall_us: wall.as_micros() as u64, start: Instant::now() }
    }

    fn now_us(&self) -> u64 {
        self.wall_us + self.start.elapsed().as_micros() as u64
    }
}

/// Who gets a target's messages.
#[derive(Clone, Debug)]
struct Reader {
    queue: Arc<FeedQueue>,
    source: Arc<Source>,
}

impl Reader {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.queue, &other.queue)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct MemorySubscriptions {
    bus: Arc<Memory>,
    reader: Reader,
}

impl MemorySubscriptions {
    pub(crate) fn subscribe(&self, targets: &[Target]) -> Result<(), BusError> {
        if self.reader.queue.is_closed() {
            return Err(BusError::FeedEnded);
        }
        let mut store = self.bus.lock();
        for target in targets {
            store.subscribe(target, &self.reader);
        }
        Ok(())
    }

    pub(crate) fn unsubscribe(&self, targets: &[Target]) -> Result<(), BusError> {
        if self.reader.queue.is_closed() {
            return Err(BusError::FeedEnded);
        }
        let mut store = self.bus.lock();
        for target in targets {
            store.unsubscribe(target, &self.reader);
        }
        Ok(())
    }
}
