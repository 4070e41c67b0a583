//! What the tests of ingest beside real brokers share: names of their own, a producer, and a running ingest.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "shared by test binaries"
)]

pub(crate) mod broker;
pub(crate) mod producer;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use herald_bus::{Bus, RedisConfig};
use herald_chassis::Context;
use herald_chassis::shutdown::Drained;
use herald_ingest::plan::Rules;
use herald_ingest::source::queue::{AmqpConfig, Declare, QueueType};
use herald_ingest::{Amqp, Config, FlowConfig, HttpConfig};
use herald_wire::{Envelope, Limits, Position, Target};
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until there is an answer.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        ticks.tick().await;
        if let Some(answer) = ask().await {
            return answer;
        }
    }
    panic!("waited {PATIENCE:?} in vain: {what}");
}

/// A setting that `scripts/with-brokers` makes.
pub(crate) fn given(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run this test by scripts/test -p herald-ingest, or beside scripts/with-brokers")
    })
}

/// An ingest of the test's own, on names that no other test has.
pub(crate) struct Ingest {
    pub(crate) name: String,
    pub(crate) bus: Bus,
    pub(crate) redis_url: String,
    pub(crate) ctx: Context,
    pub(crate) config: Config,
    /// Where it serves POST /publish, once started.
    pub(crate) http: Option<SocketAddr>,
}

impl Ingest {
    /// Not started; its queue is named after it.
    pub(crate) async fn new(name: &str) -> Self {
        Self::on(name, &given("HERALD_TEST_AMQP_URL"), &given("HERALD_TEST_REDIS_URL")).await
    }

    pub(crate) async fn on(name: &str, amqp_url: &str, redis_url: &str) -> Self {
        let name = format!("ingest-test.{name}.{:08x}", fastrand::u32(..));
        let mut redis = RedisConfig::new(redis_url);
        redis.prefix.clone_from(&name);
        redis.log.entries_max = 1_000_000;
        redis.response_timeout = Duration::from_secs(1);
        let queue = AmqpConfig {
            url: amqp_url.parse().unwrap(),
            queue: name.clone(),
            queue_type: QueueType::Quorum,
            queue_ttl_ms: 600_000,
            declare: Declare::Active,
            dead_letter: format!("{name}.dead"),
        };
        let config = Config {
            rules: Rules { limits: Limits::DEFAULT, ttl_ms: 600_000 },
            http: HttpConfig::default(),
            amqp: Some(Amqp { queue, prefetch: 2_000, batch_max: 256 }),
            flow: FlowConfig::default(),
        };
        let bus = Bus::redis(redis).await.unwrap();
        Self { name, bus, redis_url: redis_url.to_owned(), ctx: Context::new(), config, http: None }
    }

    pub(crate) fn queue(&mut self) -> &mut AmqpConfig {
        &mut self.config.amqp.as_mut().unwrap().queue
    }

    /// Starts it, without waiting for anything.
    pub(crate) async fn start(&mut self) {
        self.ctx = Context::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.http = Some(listener.local_addr().unwrap());
        herald_ingest::start(self.config.clone(), self.bus.clone(), listener, &self.ctx).unwrap();
    }

    /// Starts it, and waits until it consumes.
    pub(crate) async fn started(&mut self) {
        self.start().await;
        self.until_ready().await;
    }

    pub(crate) async fn until_ready(&self) {
        until("ingest is ready", async || self.ctx.readiness.is_ready().then_some(())).await;
    }

    /// What is not ready, by name.
    pub(crate) fn waits_for(&self) -> Vec<&'static str> {
        let report = self.ctx.readiness.report().into_iter();
        report.filter_map(|(name, reason)| reason.map(|_| name)).collect()
    }

    pub(crate) async fn stop(&self) {
        assert_eq!(self.ctx.tasks.drain(Duration::from_secs(20)).await, Drained::Soft);
        assert_eq!(self.ctx.tasks.death(), None);
    }

    /// The envelopes in a socketId's log.
    pub(crate) async fn log(&self, socket_id: &str) -> Vec<Envelope> {
        let target = Target::socket(socket_id, 256).unwrap();
        let entries = self.bus.read_log(&target, Position::ZERO, 1_000_000).await.unwrap_or_default();
        entries.into_iter().map(|entry| Envelope::read(entry.envelope).unwrap()).collect()
    }

    pub(crate) async fn until_logged(&self, socket_id: &str, count: usize) -> Vec<Envelope> {
        until(&format!("{count} messages in the log of {socket_id}"), async || {
            let log = self.log(socket_id).await;
            (log.len() >= count).then_some(log)
        })
        .await
    }

    /// The number each of these messages carries as `data`.
    pub(crate) fn numbers(log: &[Envelope]) -> Vec<u64> {
        let number = |envelope: &Envelope| {
            let body: serde_json::Value = serde_json::from_slice(&envelope.body).unwrap();
            body["data"].as_u64().unwrap()
        };
        log.iter().map(number).collect()
    }
}

/// Fails unless these are the numbers from 0 up to `count`, each once, in order; says where they are not.
pub(crate) fn assert_counts_up(numbers: &[u64], count: u64, when: &str) {
    let wrong = (0..count).zip(numbers).find(|(expected, number)| expected != *number);
    let around = wrong.map(|(at, _)| {
        let at = at as usize;
        &numbers[at.saturating_sub(3)..numbers.len().min(at + 5)]
    });
    let got = numbers.len();
    assert!(wrong.is_none() && got as u64 == count, "{when}: {got} of {count}; {wrong:?} {around:?}");
}

/// A reliable message that carries a number.
pub(crate) fn numbered(socket_id: &str, number: u64) -> String {
    format!(r#"{{"socketSessionId":"{socket_id}","isVolatile":false,"data":{number}}}"#)
}
