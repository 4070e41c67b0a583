//! The open loop: messages leave when they are due, whatever became of those before them. Several publishers share the
//! targets; what one of them was told of a message's fate goes into the settlement.

mod agenda;
mod amqp;
mod compose;
mod http;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

pub(crate) use agenda::{Agenda, Job};
pub(crate) use compose::Composer;

use crate::clock::now_us;
use crate::plan::{Plan, Publish, Round, Stream};
use crate::tally::Times;

/// Messages due at about the same time leave together: this is how far apart two departures are at least.
const TICK: Duration = Duration::from_millis(1);
/// Messages handed over at once.
const BATCH_MAX: usize = 200;

/// What publishers did in a round.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// How late messages left, in microseconds behind their schedule.
    pub(crate) lateness: Times,
    /// Messages handed over, by stream.
    pub(crate) offered: Vec<u64>,
    pub(crate) fates: Fates,
}

/// What became of messages that were not simply taken.
#[derive(Debug, Default)]
pub(crate) struct Fates {
    /// Nobody said whether it was taken.
    pub(crate) unknown: Vec<Job>,
    /// It was not taken, or never sent.
    pub(crate) refused: Vec<Job>,
    /// How often one was sent again because nobody had said.
    pub(crate) resent: u64,
    /// Connections that were lost.
    pub(crate) reconnects: u64,
    /// What went wrong last.
    pub(crate) trouble: Option<String>,
}

impl Fates {
    fn add(&mut self, other: Self) {
        self.unknown.extend(other.unknown);
        self.refused.extend(other.refused);
        self.resent += other.resent;
        self.reconnects += other.reconnects;
        self.trouble = self.trouble.take().or(other.trouble);
    }
}

/// Publishing cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// RabbitMQ cannot be reached, or the queue is not there.
    #[error("cannot publish on the queue `{queue}`: {source}")]
    Amqp {
        /// The queue's name.
        queue: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The endpoint cannot be reached.
    #[error("cannot publish at http://{to}/publish: {source}")]
    Http {
        /// Where.
        to: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The thread of the publishers cannot be started.
    #[error("the publishers cannot be started: {0}")]
    Start(std::io::Error),
}

/// The way one publisher sends.
enum Outlet {
    Amqp(Box<amqp::Amqp>),
    Http(Box<http::Http>),
}

impl Outlet {
    async fn connect(publish: &Publish, lane: u32) -> Result<Self, PublishError> {
        Ok(match publish {
            Publish::Amqp { url, queue, confirms } => {
                Self::Amqp(Box::new(amqp::Amqp::connect(url, queue, *confirms).await?))
            }
            Publish::Http(to) => {
                let to = to[lane as usize % to.len()];
                Self::Http(Box::new(http::Http::connect(to, lane).await?))
            }
        })
    }

    /// Sends all of these; comes back when they were handed over, or nobody will take them before `give_up`.
    async fn send(&mut self, jobs: &[Job], composer: &Composer, give_up: Instant) {
        match self {
            Self::Amqp(outlet) => outlet.send(jobs, composer, give_up).await,
            Self::Http(outlet) => outlet.send(jobs, composer, give_up).await,
        }
    }

    /// Waits until the fate of everything that was sent is known, or until `give_up`.
    async fn finish(self, composer: &Composer, give_up: Instant) -> Fates {
        match self {
            Self::Amqp(outlet) => outlet.finish(composer, give_up).await,
            Self::Http(outlet) => outlet.finish(),
        }
    }
}

/// A round's publishers, on a thread of their own.
#[derive(Debug)]
pub(crate) struct Publishers {
    start: Option<oneshot::Sender<(Arc<Round>, Duration)>>,
    done: oneshot::Receiver<Published>,
    offered: Arc<AtomicU64>,
}

impl Publishers {
    /// Connects them. They do nothing before they [`begin`](Self::begin).
    pub(crate) async fn connect(plan: &Plan) -> Result<Self, PublishError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(PublishError::Start)?;
        let (connected, told) = oneshot::channel();
        let (start, started) = oneshot::channel();
        let (finished, done) = oneshot::channel();
        let offered = Arc::new(AtomicU64::new(0));
        let (plan, count) = (plan.clone(), offered.clone());
        let work = move || {
            runtime.block_on(async {
                let outlets = match outlets(&plan).await {
                    Ok(outlets) => outlets,
                    Err(error) => return drop(connected.send(Err(error))),
                };
                let _ = connected.send(Ok(()));
                if let Ok((round, patience)) = started.await {
                    let _ =
                        finished.send(run(lanes(&plan, outlets, (&round, patience), &count), &round).await);
                }
            });
        };
        std::thread::Builder::new().name("publishers".into()).spawn(work).map_err(PublishError::Start)?;
        match told.await {
            Ok(told) => told?,
            Err(_) => return Err(PublishError::Start(std::io::ErrorKind::BrokenPipe.into())),
        }
        Ok(Self { start: Some(start), done, offered })
    }

    /// Sends a round. `patience`: how long after its end a message may still be sent.
    pub(crate) fn begin(&mut self, round: Arc<Round>, patience: Duration) {
        if let Some(start) = self.start.take() {
            let _ = start.send((round, patience));
        }
    }

    /// How many messages were handed over so far.
    pub(crate) fn offered(&self) -> u64 {
        self.offered.load(Ordering::Relaxed)
    }

    /// Resolves when all is sent and its fate known.
    pub(crate) async fn done(&mut self) -> Published {
        (&mut self.done).await.unwrap_or_default()
    }
}

/// One publisher: its messages, its way out.
struct Lane {
    agenda: Agenda,
    outlet: Outlet,
    composer: Composer,
    give_up: Instant,
    published: Published,
    offered: Arc<AtomicU64>,
}

/// Which streams go one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    All,
    Reliable,
    Volatile,
}

impl Takes {
    fn takes(self, stream: &Stream) -> bool {
        match self {
            Self::All => true,
            Self::Reliable => stream.reliable,
            Self::Volatile => !stream.reliable,
        }
    }
}

/// The publishers' ways out: as many as there are publishers for each way.
async fn outlets(plan: &Plan) -> Result<Vec<(Takes, u32, Outlet)>, PublishError> {
    let ways = match &plan.volatile {
        None => vec![(Takes::All, &plan.publish)],
        Some(volatile) => vec![(Takes::Reliable, &plan.publish), (Takes::Volatile, volatile)],
    };
    let mut outlets = Vec::new();
    for (takes, publish) in ways {
        for lane in 0..plan.publishers {
            outlets.push((takes, lane, Outlet::connect(publish, lane).await?));
        }
    }
    Ok(outlets)
}

fn lanes(
    plan: &Plan,
    outlets: Vec<(Takes, u32, Outlet)>,
    (round, patience): (&Arc<Round>, Duration),
    offered: &Arc<AtomicU64>,
) -> Vec<Lane> {
    let give_up = Instant::now() + crate::clock::until(round.end_us) + patience;
    let lane = |(takes, lane, outlet): (Takes, u32, Outlet)| Lane {
        agenda: Agenda::new(round, |stream| takes.takes(stream), (lane, plan.publishers)),
        outlet,
        composer: Composer::new(plan, round.clone()),
        give_up,
        published: Published { offered: vec![0; round.streams.len()], ..Published::default() },
        offered: offered.clone(),
    };
    outlets.into_iter().map(lane).collect()
}

async fn run(lanes: Vec<Lane>, round: &Round) -> Published {
    let (ticks, ticking) = watch::channel(());
    let clock = std::thread::Builder::new().name("clock".into());
    let streams: Vec<_> = round.streams.iter().map(|stream| stream.schedule).collect();
    // a thread sleeps more exactly than the runtime's timer, which counts milliseconds
    let clock = clock.spawn(move || agenda::tick(&streams, TICK, || ticks.send(()).is_ok()));
    let mut running = JoinSet::new();
    for lane in lanes {
        running.spawn(lane.run(ticking.clone()));
    }
    drop(ticking);
    let mut all = Published { offered: vec![0; round.streams.len()], ..Published::default() };
    while let Some(lane) = running.join_next().await {
        let Ok(lane) = lane else { continue };
        all.lateness.add(&lane.lateness);
        for (ours, theirs) in all.offered.iter_mut().zip(&lane.offered) {
            *ours += theirs;
        }
        all.fates.add(lane.fates);
    }
    drop(clock);
    all
}

impl Lane {
    async fn run(mut self, mut ticks: watch::Receiver<()>) -> Published {
        let mut jobs = Vec::with_capacity(BATCH_MAX);
        loop {
            loop {
                let now = now_us();
                jobs.clear();
                jobs.extend(std::iter::from_fn(|| self.agenda.next(now)).take(BATCH_MAX));
                if jobs.is_empty() {
                    break;
                }
                for job in &jobs {
                    self.published.lateness.record(now - job.at_us);
                    self.published.offered[usize::from(job.stream)] += 1;
                }
                self.offered.fetch_add(jobs.len() as u64, Ordering::Relaxed);
                self.outlet.send(&jobs, &self.composer, self.give_up).await;
            }
            if self.agenda.is_done() || ticks.changed().await.is_err() {
                break;
            }
        }
        self.published.fates = self.outlet.finish(&self.composer, self.give_up).await;
        self.published
    }
}
