//! How many publications a bus takes in a second, volatile and reliable, by size of batch, and what each costs Redis
//! (its own processor time, `INFO cpu`). Prints a table.
//!
//! `cargo run --release -p herald-bus --example publish_rate -- [redis-url] [seconds per row]`; without a URL it
//! measures the bus in memory. Use a Redis of its own: it writes a thousand logs under the prefix `publish-rate`.

#![allow(clippy::print_stdout)] // a table is what it is for

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use herald_bus::{Bus, FeedEvent, FeedLimits, LogConfig, Publication, RedisConfig};
use herald_wire::{Envelope, Target};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const TARGETS: usize = 1_000;
const BODY_BYTES: usize = 200;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let (bus, mut meter) = match arguments.next() {
        Some(url) => {
            let config = RedisConfig { prefix: "publish-rate".into(), ..RedisConfig::new(&url) };
            (Bus::redis(config).await?, Meter::of(&url).await?)
        }
        None => (Bus::memory(LogConfig::default()), Meter(None)),
    };
    let seconds = arguments.next().map_or(Ok(2.0), |seconds| seconds.parse())?;
    bus.ping().await?;
    println!(
        "| kind | batch | batches at once | subscribed | published/s | p50 of a batch | p99 | received/s | Redis µs each |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for subscribed in [false, true] {
        for reliable in [false, true] {
            for (batch, at_once) in [(1, 1), (1, 64), (10, 8), (100, 2), (1_000, 2)] {
                let row = Row { reliable, batch, at_once, subscribed };
                row.measure(&bus, &mut meter, Duration::from_secs_f64(seconds)).await?;
            }
        }
    }
    Ok(())
}

struct Row {
    reliable: bool,
    batch: usize,
    at_once: usize,
    subscribed: bool,
}

impl Row {
    async fn measure(&self, bus: &Bus, meter: &mut Meter, time: Duration) -> Result<(), Failure> {
        let targets = targets()?;
        let received = Arc::new(AtomicU64::new(0));
        let reader = if self.subscribed {
            let (subscriptions, mut feed) = bus.feed(FeedLimits::default());
            subscriptions.subscribe(&targets).await?;
            let received = received.clone();
            Some(tokio::spawn(async move {
                let mut events = Vec::new();
                while feed.next(&mut events, 1_024).await > 0 {
                    let messages =
                        events.iter().filter(|event| matches!(event, FeedEvent::Message { .. })).count();
                    received.fetch_add(messages as u64, Ordering::Relaxed);
                    events.clear();
                }
                drop(subscriptions);
            }))
        } else {
            None
        };
        let stop = Arc::new(AtomicBool::new(false));
        let cpu = meter.seconds().await?;
        let started = Instant::now();
        let publishers: Vec<_> = (0..self.at_once)
            .map(|first| tokio::spawn(publish(bus.clone(), self.batch(&targets, first), stop.clone())))
            .collect();
        tokio::time::sleep(time).await;
        stop.store(true, Ordering::Relaxed);
        let mut took = Vec::new();
        for publisher in publishers {
            took.extend(publisher.await??);
        }
        let elapsed = started.elapsed().as_secs_f64();
        let cpu = meter.seconds().await? - cpu;
        if let Some(reader) = reader {
            reader.abort();
        }
        self.print(&mut took, elapsed, received.load(Ordering::Relaxed), cpu);
        Ok(())
    }

    fn batch(&self, targets: &[Target], first: usize) -> Vec<Publication> {
        let body = Bytes::from(vec![b'x'; BODY_BYTES]);
        let envelope = Envelope { body, reliable: self.reliable, ..Envelope::default() }.to_bytes();
        let publication = |target: &Target| Publication {
            target: target.clone(),
            envelope: envelope.clone(),
            reliable: self.reliable,
            message_id: None,
        };
        targets.iter().cycle().skip(first).take(self.batch).map(publication).collect()
    }

    fn print(&self, took: &mut [Duration], elapsed: f64, received: u64, cpu: f64) {
        took.sort_unstable();
        let kind = if self.reliable { "reliable" } else { "volatile" };
        let subscribed = if self.subscribed { "all" } else { "none" };
        let count = (took.len() * self.batch) as f64;
        let rate = count / elapsed;
        let quantile = |part: f64| took.get((took.len() as f64 * part) as usize).copied().unwrap_or_default();
        println!(
            "| {kind} | {} | {} | {subscribed} | {rate:.0} | {:.2?} | {:.2?} | {:.0} | {:.1} |",
            self.batch,
            self.at_once,
            quantile(0.5),
            quantile(0.99),
            received as f64 / elapsed,
            cpu * 1e6 / count.max(1.0)
        );
    }
}

/// Redis' processor time; none in memory.
struct Meter(Option<redis::aio::MultiplexedConnection>);

impl Meter {
    async fn of(url: &str) -> Result<Self, Failure> {
        Ok(Self(Some(redis::Client::open(url)?.get_multiplexed_async_connection().await?)))
    }

    async fn seconds(&mut self) -> Result<f64, Failure> {
        let Some(redis) = &mut self.0 else { return Ok(0.0) };
        let info: String = redis::cmd("INFO").arg("cpu").query_async(redis).await?;
        let field = |name: &str| -> Option<f64> {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
        };
        let time = field("used_cpu_user").zip(field("used_cpu_sys")).map(|(user, system)| user + system);
        time.ok_or_else(|| "INFO cpu tells no time".into())
    }
}

/// Publishes the same batch again and again; how long each took.
async fn publish(bus: Bus, batch: Vec<Publication>, stop: Arc<AtomicBool>) -> Result<Vec<Duration>, Failure> {
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        for answer in bus.publish(&batch).await {
            answer?;
        }
        took.push(started.elapsed());
        // the bus in memory never waits
        tokio::task::yield_now().await;
    }
    Ok(took)
}

fn targets() -> Result<Vec<Target>, Failure> {
    let targets: Result<_, _> = (0..TARGETS).map(|n| Target::group(&n.to_string(), 64)).collect();
    Ok(targets?)
}
