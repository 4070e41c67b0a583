//! What happened in a round: for people, for programs. Knows only counts.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::ledger::Account;
use crate::plan::Round;
use crate::publish::Published;
use crate::scrape::Stages;
use crate::tally::{Events, Tally, Times};

/// Messages leave in one burst a millisecond: a generator that is later than this at the 99th percentile cannot keep up.
const LATENESS_MS_MAX: f64 = 50.0;

/// How connecting went.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Connected {
    /// How many clients are registered.
    pub clients: u64,
    /// From the first packet to the last answer.
    pub seconds: f64,
}

/// How a round is going.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Progress {
    /// Changes once a second, with the percentiles.
    pub second: u64,
    /// Since the round began.
    pub seconds: f64,
    /// Clients that are registered.
    pub registered: u64,
    /// Messages published so far.
    pub offered: u64,
    /// Deliveries so far.
    pub received: u64,
    /// Of the last second.
    pub p50_ms: f64,
    /// Of the last second.
    pub p99_ms: f64,
}

/// What happened in a round.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Length of the measured part.
    pub seconds: f64,
    /// Clients held, and registered at the end.
    pub clients: u64,
    /// Those that had no connection at the end.
    pub away: u64,
    /// By stream.
    pub streams: Vec<StreamReport>,
    /// All streams together.
    pub account: Account,
    /// Deliveries a second within the measured part.
    pub delivered_per_second: f64,
    /// Latency from the schedule, all streams.
    pub latency: Percentiles,
    /// From the first packet to the answer to `register`, of the clients that connected first.
    pub connects: Percentiles,
    /// The same while messages flowed: churn, storms, faults.
    pub reconnects: Percentiles,
    /// What happened to connections while messages flowed.
    pub events: Events,
    /// The generator itself.
    pub sender: Sender,
    /// How long the stages of a message's way took, if services were asked.
    #[serde(flatten)]
    pub stages: Stages,
}

/// One stream's part.
#[derive(Clone, Debug, Serialize)]
pub struct StreamReport {
    /// `group reliable`.
    pub name: String,
    /// Whether a loss is one.
    pub reliable: bool,
    /// Messages a second, as scheduled.
    pub rate: f64,
    /// Messages published.
    pub offered: u64,
    /// What was due, and what came of it.
    pub account: Account,
    /// Deliveries a second within the measured part.
    pub delivered_per_second: f64,
    /// From the schedule to the client, of messages in the measured part.
    pub latency: Percentiles,
}

/// How the generator's own side did.
#[derive(Clone, Debug, Serialize)]
pub struct Sender {
    /// How late messages left.
    pub lateness: Percentiles,
    /// Whether it kept up with its schedule.
    pub kept_up: bool,
    /// Messages of which nobody said whether they were taken: due only where they arrived.
    pub unknown: u64,
    /// Messages that were not taken.
    pub refused: u64,
    /// Messages sent again because nobody had said.
    pub resent: u64,
    /// Publishers' connections that were lost.
    pub reconnects: u64,
    /// What went wrong last.
    pub trouble: Option<String>,
}

/// Times in milliseconds, exact to 1 %.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// How many times there are.
    pub count: u64,
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl From<&Times> for Percentiles {
    fn from(times: &Times) -> Self {
        Self {
            count: times.count(),
            mean: times.mean_ms(),
            p50: times.percentile_ms(50.0),
            p90: times.percentile_ms(90.0),
            p99: times.percentile_ms(99.0),
            p999: times.percentile_ms(99.9),
            max: times.max_ms(),
        }
    }
}

impl Report {
    pub(crate) fn new(
        round: &Round,
        (before, tally): (&Tally, &Tally),
        published: &Published,
        (clients, registered): (u64, u64),
    ) -> Self {
        let seconds = round.end_us.saturating_sub(round.measure_from_us) as f64 / 1e6;
        let mut account = Account::default();
        let mut latency = Times::new();
        let streams = round.streams.iter().zip(&tally.streams).zip(&published.offered);
        let streams: Vec<StreamReport> = streams
            .map(|((stream, counted), offered)| {
                account.add(&counted.account);
                latency.add(&counted.latency);
                StreamReport {
                    name: stream.name(),
                    reliable: stream.reliable,
                    rate: stream.schedule.rate,
                    offered: *offered,
                    account: counted.account,
                    delivered_per_second: counted.arrived as f64 / seconds,
                    latency: (&counted.latency).into(),
                }
            })
            .collect();
        Self {
            seconds,
            clients,
            away: clients.saturating_sub(registered),
            delivered_per_second: streams.iter().map(|stream| stream.delivered_per_second).sum(),
            streams,
            account,
            latency: (&latency).into(),
            connects: (&before.connects).into(),
            reconnects: (&tally.connects).into(),
            events: tally.events,
            sender: Sender::new(published),
            stages: Stages::default(),
        }
    }

    /// What must not be: reliable messages lost, any duplicated or out of order, an account that is not exact, a
    /// generator that could not keep up. Empty when all is well.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut fault = |count: u64, what: &str| {
            if count > 0 {
                faults.push(format!("{count} {what}"));
            }
        };
        let lost = self.streams.iter().filter(|stream| stream.reliable).map(|stream| stream.account.lost);
        fault(lost.sum(), "reliable deliveries lost");
        fault(self.account.duplicated, "deliveries duplicated");
        fault(self.account.out_of_order, "deliveries out of order");
        fault(self.account.unresolved, "deliveries either duplicated or late: the account is not exact");
        fault(self.sender.refused, "messages not taken");
        fault(self.away, "clients without a connection at the end");
        if !self.sender.kept_up {
            faults.push(format!(
                "the generator could not keep up: p99 {:.1} ms late",
                self.sender.lateness.p99
            ));
        }
        faults
    }
}

impl Report {
    /// Whether volatile messages did not arrive.
    pub fn has_shed(&self) -> bool {
        self.streams.iter().any(|stream| !stream.reliable && stream.account.lost > 0)
    }
}

impl Sender {
    fn new(published: &Published) -> Self {
        let lateness = Percentiles::from(&published.lateness);
        let fates = &published.fates;
        Self {
            lateness,
            kept_up: lateness.p99 <= LATENESS_MS_MAX,
            unknown: fates.unknown.len() as u64,
            refused: fates.refused.len() as u64,
            resent: fates.resent,
            reconnects: fates.reconnects,
            trouble: fates.trouble.clone(),
        }
    }
}

impl Display for Percentiles {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, p999, max, .. } = self;
        write!(f, "p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2} ms")
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for stream in &self.streams {
            let Account { due, delivered, lost, duplicated, out_of_order, undue, .. } = stream.account;
            let missed = if stream.reliable { "lost" } else { "shed" };
            writeln!(f, "{}: {:.0} msg/s, {} offered", stream.name, stream.rate, stream.offered)?;
            writeln!(
                f,
                "  due {due}, delivered {delivered} ({:.0}/s), {missed} {lost}, duplicated {duplicated}, \
                         out of order {out_of_order}, undue {undue}",
                stream.delivered_per_second
            )?;
            writeln!(f, "  latency    {}", stream.latency)?;
        }
        if self.connects.count > 0 {
            writeln!(f, "connecting   {}", self.connects)?;
        }
        if self.reconnects.count > 0 {
            writeln!(f, "reconnecting {}", self.reconnects)?;
        }
        let Events { resumed, resume_refused, disconnected, cut, connect_failed, gaps, strays, .. } =
            self.events;
        writeln!(
            f,
            "connections  {} of {} at the end; disconnected {disconnected}, cut {cut}, resumed {resumed}, \
                     not resumed {resume_refused}, attempts failed {connect_failed}, gaps told {gaps}, \
                     strays {strays}",
            self.clients - self.away,
            self.clients
        )?;
        let Sender { lateness, unknown, refused, resent, reconnects, .. } = &self.sender;
        writeln!(f, "sender       late by {lateness}")?;
        writeln!(
            f,
            "             unknown {unknown}, refused {refused}, sent again {resent}, \
                     connections lost {reconnects}"
        )?;
        if let Some(trouble) = &self.sender.trouble {
            writeln!(f, "             last trouble: {trouble}")?;
        }
        write!(f, "{}", self.stages)?;
        match self.faults() {
            faults if faults.is_empty() => writeln!(f, "no fault"),
            faults => writeln!(f, "FAULTS: {}", faults.join("; ")),
        }
    }
}
