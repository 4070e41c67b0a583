//! Which deliveries were due, and what became of each. Pure: it is told, and judges.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use super::schedule::Kind;

/// A message's number.
pub(super) type Number = u64;

/// A message that was published.
#[derive(Debug)]
struct Sent {
    reliable: bool,
    due: Vec<usize>,
    at: Duration,
    /// Its targets, for people.
    to: String,
}

/// What a client was given, in the order in which it got it.
#[derive(Debug, Default)]
struct Got {
    numbers: HashSet<Number>,
    /// By channel: the last position.
    positions: HashMap<String, u64>,
    duplicates: Vec<(Number, Duration)>,
    disordered: Vec<Number>,
    /// Not due to it at all.
    foreign: Vec<Number>,
    gaps: usize,
    sessions_lost: usize,
    connects: usize,
}

/// Of one run.
#[derive(Debug)]
pub struct Account {
    sent: HashMap<Number, Sent>,
    got: Vec<Got>,
    /// When, which, and the one client that felt it, where it is not everybody's.
    faults: Vec<(Duration, Kind, Option<usize>)>,
    /// Reliable deliveries still to come.
    missing: usize,
}

/// What became of the deliveries whose message was sent when the last fault that their client felt was of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    /// How often the fault happened.
    pub faults: usize,
    /// Reliable deliveries due, and of them never made, made more than once, and made in the wrong order.
    pub reliable: [usize; 4],
    /// Volatile deliveries due, and of them never made, and made more than once.
    pub volatile: [usize; 3],
}

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By the kind of the last fault before the message was sent.
    pub fates: BTreeMap<Kind, Fates>,
    /// Times a client connected, the first included.
    pub connects: usize,
    /// Gaps told.
    pub gaps: usize,
    /// Sessions that could not be resumed.
    pub sessions_lost: usize,
    /// Messages that reached a client they were not for.
    pub foreign: usize,
    /// Some of what went wrong: client, message, what.
    pub examples: Vec<String>,
}

impl Account {
    /// An account of so many clients.
    pub fn new(clients: usize) -> Self {
        let got = std::iter::repeat_with(Got::default).take(clients).collect();
        Self { sent: HashMap::new(), got, faults: Vec::new(), missing: 0 }
    }

    pub(super) fn fault(&mut self, at: Duration, kind: Kind, client: Option<usize>) {
        self.faults.push((at, kind, client));
    }

    /// A message is about to be published.
    pub(super) fn sent(
        &mut self,
        number: Number,
        (reliable, due, to): (bool, Vec<usize>, String),
        at: Duration,
    ) {
        if reliable {
            self.missing += due.len();
        }
        self.sent.insert(number, Sent { reliable, due, at, to });
    }

    /// A client got a message: by `channel` if only one can have brought it, at this position if it is reliable.
    pub(super) fn got(
        &mut self,
        client: usize,
        number: Number,
        (channel, position): (Option<&str>, Option<u64>),
        at: Duration,
    ) {
        let got = &mut self.got[client];
        let Some(sent) = self.sent.get(&number).filter(|sent| sent.due.contains(&client)) else {
            got.foreign.push(number);
            return;
        };
        if !got.numbers.insert(number) {
            got.duplicates.push((number, at));
            return;
        }
        if sent.reliable {
            self.missing -= 1;
        }
        if let (Some(channel), Some(position)) = (channel, position) {
            let last = got.positions.entry(channel.to_owned()).or_default();
            if position <= *last {
                got.disordered.push(number);
            }
            *last = position.max(*last);
        }
    }

    pub(super) fn gap(&mut self, client: usize) {
        self.got[client].gaps += 1;
    }

    /// A client connected; `resumed` unless it is the first time, or its session was lost.
    pub(super) fn connected(&mut self, client: usize, resumed: bool) {
        let got = &mut self.got[client];
        got.connects += 1;
        got.sessions_lost += usize::from(got.connects > 1 && !resumed);
    }

    /// Whether every reliable delivery that is due was made.
    pub(super) fn is_settled(&self) -> bool {
        self.missing == 0
    }

    /// The last fault before a message that this client felt.
    fn kind_of(&self, client: usize, at: Duration) -> Kind {
        let felt = |(since, _, by): &&(Duration, Kind, Option<usize>)| {
            *since <= at && by.is_none_or(|by| by == client)
        };
        self.faults.iter().rev().find(felt).map_or(Kind::None, |(_, kind, _)| *kind)
    }

    pub(super) fn report(&self) -> Report {
        let mut report = Report::default();
        for (_, kind, _) in &self.faults {
            report.fates.entry(*kind).or_default().faults += 1;
        }
        for (number, sent) in &self.sent {
            for client in &sent.due {
                let kind = self.kind_of(*client, sent.at);
                let fates = report.fates.entry(kind).or_default();
                let is_lost = !self.got[*client].numbers.contains(number);
                if sent.reliable {
                    fates.reliable[0] += 1;
                    fates.reliable[1] += usize::from(is_lost);
                    if is_lost {
                        report.examples.push(format!(
                            "client {client} never got {number} to {}, sent at {:?} ({kind})",
                            sent.to, sent.at
                        ));
                    }
                } else {
                    fates.volatile[0] += 1;
                    fates.volatile[1] += usize::from(is_lost);
                }
            }
        }
        for (client, got) in self.got.iter().enumerate() {
            self.add(&mut report, client, got);
        }
        report.examples.truncate(40);
        report
    }

    fn add(&self, report: &mut Report, client: usize, got: &Got) {
        report.connects += got.connects;
        report.gaps += got.gaps;
        report.sessions_lost += got.sessions_lost;
        report.foreign += got.foreign.len();
        for number in &got.foreign {
            report.examples.push(format!("client {client} got {number}, which was not for it"));
        }
        for (number, at) in &got.duplicates {
            let sent = &self.sent[number];
            let fates = report.fates.entry(self.kind_of(client, sent.at)).or_default();
            fates.reliable[2] += usize::from(sent.reliable);
            fates.volatile[2] += usize::from(!sent.reliable);
            let class = if sent.reliable { "reliable" } else { "volatile" };
            report.examples.push(format!(
                "client {client} got {class} {number} to {} again at {at:?}, sent at {:?}",
                sent.to, sent.at
            ));
        }
        for number in &got.disordered {
            let kind = self.kind_of(client, self.sent[number].at);
            report.fates.entry(kind).or_default().reliable[3] += 1;
            report.examples.push(format!("client {client} got {number} behind a later one of its channel"));
        }
    }
}

impl Report {
    /// All kinds together.
    pub fn total(&self) -> Fates {
        let mut total = Fates::default();
        for fates in self.fates.values() {
            total.faults += fates.faults;
            total.reliable.iter_mut().zip(fates.reliable).for_each(|(sum, n)| *sum += n);
            total.volatile.iter_mut().zip(fates.volatile).for_each(|(sum, n)| *sum += n);
        }
        total
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| last fault before | times | reliable due | lost | twice | disordered | volatile due | lost | twice |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|")?;
        let mut line = |name: &str, fates: &Fates| {
            let Fates { faults, reliable: r, volatile: v } = fates;
            let (reliable, volatile) = ([r[0], r[1], r[2], r[3]], [v[0], v[1], v[2]]);
            let cells: Vec<String> = reliable.iter().chain(&volatile).map(ToString::to_string).collect();
            writeln!(f, "| {name} | {faults} | {} |", cells.join(" | "))
        };
        for (kind, fates) in &self.fates {
            line(&kind.to_string(), fates)?;
        }
        line("all", &self.total())?;
        let Self { connects, gaps, sessions_lost, foreign, .. } = self;
        writeln!(
            f,
            "\nconnects {connects}, gaps {gaps}, sessions lost {sessions_lost}, foreign messages {foreign}"
        )?;
        self.examples.iter().try_for_each(|example| writeln!(f, "{example}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Duration = Duration::from_secs(1);

    #[test]
    fn every_delivery_has_a_fate() {
        let mut account = Account::new(2);
        account.connected(0, false);
        account.connected(1, false);
        account.sent(1, (true, vec![0, 1], String::new()), T);
        account.fault(2 * T, Kind::EdgeKilled, None);
        account.fault(2 * T, Kind::NetworkCut, Some(1));
        account.sent(2, (true, vec![0], String::new()), 3 * T);
        account.sent(3, (true, vec![0], String::new()), 3 * T);
        account.sent(4, (false, vec![0, 1], String::new()), 3 * T);
        account.got(0, 1, (Some("g"), Some(10)), T);
        account.got(0, 3, (Some("g"), Some(30)), T);
        assert!(!account.is_settled());
        account.got(0, 2, (Some("g"), Some(20)), T);
        account.got(0, 2, (Some("g"), Some(20)), T);
        account.got(0, 4, (Some("g"), None), T);
        account.got(1, 3, (Some("g"), Some(30)), T);
        account.connected(0, true);
        account.connected(1, false);
        let report = account.report();
        let none = Fates { faults: 0, reliable: [2, 1, 0, 0], volatile: [0; 3] };
        let killed = Fates { faults: 1, reliable: [2, 0, 1, 1], volatile: [1, 0, 0] };
        let cut = Fates { faults: 1, reliable: [0; 4], volatile: [1, 1, 0] };
        let fates = [(Kind::None, none), (Kind::EdgeKilled, killed), (Kind::NetworkCut, cut)];
        assert_eq!(report.fates, BTreeMap::from(fates));
        assert_eq!((report.foreign, report.sessions_lost, report.connects), (1, 1, 4));
        assert_eq!(report.total().reliable, [4, 1, 1, 1]);
        account.got(1, 1, (None, Some(10)), T);
        assert!(account.is_settled());
    }
}
