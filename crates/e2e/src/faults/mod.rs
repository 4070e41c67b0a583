//! Faults of every kind, at times that a seed decides, against real processes under load, and an account of every
//! delivery that was due: what the promise of the reliable messages is proven by.
//!
//! `crates/e2e/tests/faults.rs` runs it briefly, `scripts/faults SECONDS SEED` for as long as asked.

mod account;
mod clients;
mod lanes;
mod load;
mod schedule;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use account::{Account, Report};
pub use schedule::Kind;

use crate::{Balancer, Broker, Driver, Herald};

/// How long after the last fault the last message may take. With a cold RabbitMQ and backoffs of a second, seconds.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// Of each socket on the way of a client, so that an edge soon feels one that does not read.
const BUFFERS: u32 = 4_096;

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Faults and load last as long as this; then all is left to settle.
    pub duration: Duration,
    /// Decides times, kinds and victims of faults, and the messages.
    pub seed: u64,
    /// Messages a second.
    pub rate: u32,
    /// Plain WebSocket clients, which reconnect and resume by themselves.
    pub plain: usize,
    /// Official Socket.IO clients, in Node: over WebSocket, long-polling, and upgrading, in turn.
    pub official: usize,
}

/// What all parts of a run share.
#[derive(Debug)]
struct World {
    account: Mutex<Account>,
    started: Instant,
    over: AtomicBool,
}

impl World {
    fn account(&self) -> std::sync::MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Run {
    /// Runs, and says what became of every message.
    pub async fn run(self) -> Report {
        let (redis, rabbitmq) = (Broker::redis(), Broker::rabbitmq());
        let herald = self.herald(&redis, &rabbitmq);
        let edges: Vec<_> = herald.edges.iter().map(|edge| edge.listen).collect();
        let count = self.plain + self.official;
        let mut balancers = Vec::new();
        for i in 0..count {
            // each client has an edge that it prefers
            let mut upstreams = edges.clone();
            upstreams.rotate_left(i % edges.len());
            balancers.push(Balancer::narrow(&upstreams, Some(BUFFERS)));
        }
        let world = Arc::new(World {
            account: Mutex::new(Account::new(count)),
            started: Instant::now(),
            over: AtomicBool::new(false),
        });
        let node = Driver::node();
        let mut plain = Vec::new();
        for (i, balancer) in balancers.iter().enumerate().take(self.plain) {
            plain.push(clients::Plain::start(i, balancer.listen, world.clone()).await);
        }
        let mut official = Vec::new();
        for (i, balancer) in balancers.iter().enumerate().skip(self.plain) {
            official.push(clients::Official::start(&node, i, &balancer.url(), world.clone()).await);
        }
        let victims = lanes::Victims { herald, redis, rabbitmq };
        let loading = load::start(&victims.herald, self, world.clone());
        let stalls = plain.iter().map(clients::Plain::stall).collect();
        let survivors = victims.suffer(self, (balancers, stalls), &world).await;
        world.over.store(true, Ordering::Relaxed);
        loading.await.expect("the load ended");
        let end = Instant::now() + SETTLE_MAX;
        let mut looks = tokio::time::interval(Duration::from_millis(100));
        while !world.account().is_settled() && Instant::now() < end {
            looks.tick().await;
        }
        drop((plain, official));
        drop(survivors);
        world.account().report()
    }

    fn herald(self, redis: &Broker, rabbitmq: &Broker) -> Herald {
        Herald::on("faults", &redis.url, &rabbitmq.url)
            .registries(2)
            .ingests(2)
            .edges(3)
            .set("edge", "HERALD_DRAIN_MS", "500")
            // clients whose network is gone are to notice within the run
            .set("edge", "HERALD_PING_INTERVAL_MS", "2000")
            .set("edge", "HERALD_PING_TIMEOUT_MS", "2000")
            .set("edge", "HERALD_OUTBOX_FRAMES", "64")
            // a drain that cannot be finished, with Redis gone, is to end before the suite loses patience
            .set("edge", "HERALD_SHUTDOWN_GRACE_MS", "10000")
            .set("ingest", "HERALD_SHUTDOWN_GRACE_MS", "10000")
            .set("registry", "HERALD_SHUTDOWN_GRACE_MS", "10000")
            .start()
    }
}
