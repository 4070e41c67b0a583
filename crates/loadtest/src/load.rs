//! A run: clients that connect and stay, and rounds of messages to them. What happened is a [`Report`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock::{now_us, until};
use crate::plan::{Offer, Plan, Round};
use crate::publish::{PublishError, Published, Publishers};
use crate::report::{Connected, Progress, Report};
use crate::scrape::{Reading, Scraper, Stages};
use crate::swarm::{Order, Reply, Sample, Settlement, Swarm, SwarmError};
use crate::tally::{Tally, Times};

/// How often the clients are asked how it goes.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Between telling clients that a round begins and its first message.
const LEAD_US: u64 = 200_000;
/// Volatile messages that have not come when nothing has come for this long will not come.
const QUIET: Duration = Duration::from_secs(2);

/// Clients that are connected, ready for rounds of messages.
#[derive(Debug)]
pub struct Load {
    plan: Plan,
    swarm: Swarm,
    rounds: u32,
    progress: watch::Sender<Progress>,
    scraper: Option<Scraper>,
}

/// A run cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The clients' threads.
    #[error(transparent)]
    Clients(Box<dyn std::error::Error + Send + Sync>),
    /// The publishers.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// Not all clients were registered in time.
    #[error(
        "only {registered} of {clients} clients were registered within {patience:?}; the last trouble: {trouble}"
    )]
    Connect {
        /// How many were.
        registered: u64,
        /// Of how many.
        clients: u64,
        /// The time they had.
        patience: Duration,
        /// What went wrong last.
        trouble: String,
    },
}

impl From<SwarmError> for LoadError {
    fn from(error: SwarmError) -> Self {
        Self::Clients(Box::new(error))
    }
}

impl Load {
    /// Starts the clients, and waits until all are registered.
    ///
    /// # Errors
    /// When they are not within `patience`, beyond the time that the plan's connect rate takes.
    pub async fn connect(plan: Plan, patience: Duration) -> Result<(Self, Connected), LoadError> {
        let clients = u64::from(plan.cast.held);
        let patience = patience + Duration::from_secs_f64(clients as f64 / plan.connect_rate);
        let started = Instant::now();
        let swarm = Swarm::start(&plan)?;
        // the number of this run, so that messages of another one are not taken for its own
        let rounds = fastrand::u32(..) & !0xff;
        let mut load = Self { plan, swarm, rounds, progress: watch::Sender::default(), scraper: None };
        let mut trouble = None;
        loop {
            let sample = load.sample().await?;
            trouble = sample.trouble.or(trouble);
            load.progress.send_modify(|progress| progress.registered = sample.registered);
            let took = started.elapsed();
            if sample.registered == clients {
                return Ok((load, Connected { clients, seconds: took.as_secs_f64() }));
            }
            if took > patience {
                let trouble = trouble.unwrap_or_else(|| "none".to_owned());
                return Err(LoadError::Connect { registered: sample.registered, clients, patience, trouble });
            }
            tokio::time::sleep(SAMPLE_EVERY).await;
        }
    }

    /// What goes on, whenever it changes: for a progress line, or to wait for a moment to break something.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Has every report tell of the stages of a message's way, by the metrics of services.
    pub fn scrape(&mut self, scraper: Scraper) {
        self.scraper = Some(scraper);
    }

    /// How many clients are registered now.
    ///
    /// # Errors
    /// When their threads are gone.
    pub async fn registered(&mut self) -> Result<u64, LoadError> {
        Ok(self.sample().await?.registered)
    }

    /// Sends what is offered, and waits until all that is due has arrived or the time for it is over.
    ///
    /// # Errors
    /// When publishing cannot begin. What fails later is in the report.
    pub async fn run(&mut self, offer: &Offer) -> Result<Report, LoadError> {
        self.rounds = self.rounds.wrapping_add(1);
        let mut publishers = Publishers::connect(&self.plan).await?;
        let round = Arc::new(Round::new(self.rounds, offer, &self.plan.cast, now_us() + LEAD_US));
        let mut reading = self.read_at(round.measure_from_us);
        let before = merged(self.swarm.ask(&Order::Begin(Round::clone(&round))).await?);
        publishers.begin(round.clone(), offer.drain);
        let mut watch =
            Watch { round: &round, last: Times::new(), told: Instant::now(), received: (0, Instant::now()) };
        let published = loop {
            tokio::select! {
                published = publishers.done() => break published,
                () = tokio::time::sleep(SAMPLE_EVERY) => {
                    let sample = self.sample().await?;
                    watch.tell(&self.progress, &sample, publishers.offered());
                }
            }
        };
        let settlement = settlement(&round, &published);
        self.drain(&settlement, &mut watch, (offer.drain, publishers.offered())).await?;
        let tally = merged(self.swarm.ask(&Order::Settle(settlement)).await?);
        let registered = self.registered().await?;
        let clients = (u64::from(self.plan.cast.held), registered);
        let mut report = Report::new(&round, (&before, &tally), &published, clients);
        if let (Some(scraper), Some(Ok(before))) = (&self.scraper, reading.join_next().await) {
            report.stages = Stages::between(&before, &scraper.read().await);
        }
        Ok(report)
    }

    /// Reads the services' metrics then, if it is to.
    fn read_at(&self, at_us: u64) -> JoinSet<Vec<Reading>> {
        let mut reading = JoinSet::new();
        if let Some(scraper) = self.scraper.clone() {
            reading.spawn(async move {
                tokio::time::sleep(until(at_us)).await;
                scraper.read().await
            });
        }
        reading
    }

    async fn drain(
        &mut self,
        settlement: &Settlement,
        watch: &mut Watch<'_>,
        (patience, offered): (Duration, u64),
    ) -> Result<(), LoadError> {
        let end = Instant::now() + patience;
        loop {
            let answers = self.swarm.ask(&Order::Outstanding(settlement.sent.clone())).await?;
            let mut reliable = 0;
            let mut volatile = 0;
            for answer in &answers {
                if let Reply::Outstanding(streams) = answer {
                    for (stream, count) in watch.round.streams.iter().zip(streams) {
                        *(if stream.reliable { &mut reliable } else { &mut volatile }) += count;
                    }
                }
            }
            let sample = self.sample().await?;
            watch.tell(&self.progress, &sample, offered);
            let is_quiet = watch.received.1.elapsed() > QUIET;
            if reliable + volatile == 0 || (reliable == 0 && is_quiet) || Instant::now() >= end {
                return Ok(());
            }
            tokio::time::sleep(SAMPLE_EVERY).await;
        }
    }

    async fn sample(&mut self) -> Result<Sample, LoadError> {
        let mut all = Sample::default();
        for answer in self.swarm.ask(&Order::Sample).await? {
            if let Reply::Sample(sample) = answer {
                all.add(&sample);
            }
        }
        Ok(all)
    }
}

/// Turns samples into progress.
struct Watch<'r> {
    round: &'r Round,
    last: Times,
    told: Instant,
    /// How many messages had come when one came last, and when that was.
    received: (u64, Instant),
}

impl Watch<'_> {
    fn tell(&mut self, progress: &watch::Sender<Progress>, sample: &Sample, offered: u64) {
        if sample.received != self.received.0 {
            self.received = (sample.received, Instant::now());
        }
        progress.send_modify(|progress| {
            progress.registered = sample.registered;
            progress.offered = offered;
            progress.received = sample.received;
        });
        if self.told.elapsed() < PROGRESS_EVERY {
            return;
        }
        self.told = Instant::now();
        let recent = sample.latency.since(&self.last);
        self.last.clone_from(&sample.latency);
        progress.send_modify(|progress| {
            progress.seconds = now_us().saturating_sub(self.round.start_us) as f64 / 1e6;
            progress.p50_ms = recent.percentile_ms(50.0);
            progress.p99_ms = recent.percentile_ms(99.0);
            progress.second += 1;
        });
    }
}

fn merged(answers: Vec<Reply>) -> Tally {
    let mut all: Option<Tally> = None;
    for answer in answers {
        if let Reply::Settled(tally) | Reply::Begun(tally) = answer {
            match &mut all {
                Some(all) => all.add(&tally),
                None => all = Some(*tally),
            }
        }
    }
    all.unwrap_or_default()
}

/// What was sent, as the clients' books need it.
fn settlement(round: &Round, published: &Published) -> Settlement {
    let fates = published.fates.unknown.iter().chain(&published.fates.refused);
    let mut exempt: Vec<_> = fates.map(|job| (job.stream, job.target, job.number)).collect();
    exempt.sort_unstable();
    exempt.dedup();
    // the schedule says how many there are; publishers skip none
    let sent = round.streams.iter().map(|stream| stream.schedule.count).collect();
    Settlement { sent, exempt }
}
