//! What is to be done: who the clients are, whom they connect to, what is sent to them, and what else they do. Data only.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::schedule::Schedule;

/// The clients of a run and how they are reached.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The public addresses of the edges; client `i` begins with edge `i` modulo their number.
    pub edges: Vec<SocketAddr>,
    /// The address of this machine from which clients connect. If none, the kernel's choice, or where it is the loopback,
    /// one of its many: an address has some 28,000 ports for each edge, and the kernel searches long for the last of them.
    pub source: Option<IpAddr>,
    /// Which protocol the clients speak.
    pub protocol: Protocol,
    /// Who the clients are.
    pub cast: Cast,
    /// Clients that connect in a second, at most.
    pub connect_rate: f64,
    /// Threads that hold clients, in each process.
    pub threads: usize,
    /// Processes that hold clients; 0 is this one.
    pub processes: u32,
    /// Where `herald-loadtest` is, for those processes; this program itself if none.
    pub program: Option<PathBuf>,
    /// Where messages are published.
    pub publish: Publish,
    /// Where volatile ones are published instead, by as many publishers again.
    pub volatile: Option<Publish>,
    /// How many publishers share the targets: a target's messages all go through one.
    pub publishers: u32,
    /// Length of each message's `data`, in bytes.
    pub data_bytes: usize,
    /// What clients do besides receiving.
    pub behaviour: Behaviour,
}

/// Clients that connect from one address of the loopback.
const CLIENTS_PER_ADDRESS: u32 = 4_000;

impl Plan {
    /// The address from which this client connects, unless the kernel shall choose.
    pub(crate) fn source_of(&self, client: u32) -> Option<IpAddr> {
        let is_local = self.edges.iter().all(|edge| edge.is_ipv4() && edge.ip().is_loopback());
        let next = || Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + client / CLIENTS_PER_ADDRESS).into();
        self.source.or_else(|| is_local.then(next))
    }
}

/// The clients, by number, and their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cast {
    /// Begins every socketId and group, so that runs do not meet each other.
    pub prefix: String,
    /// The number of the first client: several processes share one cast.
    pub first: u32,
    /// How many clients this process holds.
    pub held: u32,
    /// How many clients there are in all.
    pub clients: u32,
    /// How many groups.
    pub groups: u32,
    /// In how many groups each client is.
    pub groups_per_client: u32,
}

/// What clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Socket.IO over WebSocket.
    SocketIo,
    /// Herald's plain WebSocket.
    Plain,
    /// Server-Sent Events.
    Events,
}

/// Where messages are published.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Publish {
    /// `POST /publish` at each of these in turn.
    Http(Vec<SocketAddr>),
    /// On a queue of RabbitMQ.
    Amqp {
        /// `amqp://…`.
        url: String,
        /// The queue's name.
        queue: String,
        /// Whether RabbitMQ is asked to confirm. Without, a message that never arrived counts as lost wherever it was
        /// lost.
        confirms: bool,
    },
}

/// What clients do besides receiving.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Behaviour {
    /// Clients that lost their connection resume by `pid` and cursor (by cursor alone over Server-Sent Events).
    pub resume: bool,
    /// Clients that leave and come back as somebody new, a second, while messages flow.
    pub churn_rate: f64,
    /// Of all clients, the part that stops reading once it is registered, from 0 to 1.
    pub stalled: f64,
    /// When they read again; zero is never, and then nothing is due to them.
    pub stall: Duration,
    /// A client that hears nothing for this long gives its connection up; zero is never. By default as Socket.IO's
    /// clients do: `pingInterval` and `pingTimeout` of the open packet together, or a minute where there is none.
    pub silence: Option<Duration>,
}

/// What is sent in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Offer {
    /// The streams of messages.
    pub streams: Vec<Flow>,
    /// Sent before anything is measured. What comes of it is in the account all the same.
    pub warm_up: Duration,
    /// Sent and measured.
    pub duration: Duration,
    /// How long after that all that is due may take to arrive.
    pub drain: Duration,
    /// After how much of `duration` every connection is cut, and within which time clients come back.
    pub storm: Option<Storm>,
}

/// All clients lose their connections at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Storm {
    /// When, counted from the beginning of what is measured.
    pub after: Duration,
    /// The part of the clients that is cut, from 0 to 1.
    pub share: f64,
    /// Within which time they come back, evenly spread.
    pub spread: Duration,
}

/// Messages of one kind at a constant rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// Whom they are for.
    pub audience: Audience,
    /// `isVolatile: false`.
    pub reliable: bool,
    /// Messages a second.
    pub rate: f64,
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Audience {
    /// One socketId; all of them in turn.
    Client,
    /// One group; all of them in turn.
    Group,
    /// The group `*`: every registered client.
    Everyone,
}

/// A round as clients and publishers know it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Round {
    /// In every mark.
    pub run: u32,
    /// What is sent.
    pub streams: Vec<Stream>,
    /// Messages scheduled before this are warm-up: their latency is not recorded.
    pub measure_from_us: u64,
    /// When the last message is due.
    pub end_us: u64,
    /// When the first one was due.
    pub start_us: u64,
    /// When clients lose their connections.
    pub storm: Option<StormAt>,
}

/// [`Storm`], in time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct StormAt {
    /// When.
    pub at_us: u64,
    /// Who.
    pub share: f64,
    /// Within which time they are back.
    pub spread_us: u64,
}

/// One stream of a round.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Stream {
    /// Whom it is for.
    pub audience: Audience,
    /// Whether its messages may be dropped.
    pub reliable: bool,
    /// When they are due.
    pub schedule: Schedule,
}

impl Stream {
    /// `group reliable`, for people.
    pub fn name(&self) -> String {
        let audience = match self.audience {
            Audience::Client => "unicast",
            Audience::Group => "group",
            Audience::Everyone => "everyone",
        };
        format!("{audience} {}", if self.reliable { "reliable" } else { "volatile" })
    }
}

impl Round {
    /// Lays an offer out in time.
    pub fn new(run: u32, offer: &Offer, cast: &Cast, start_us: u64) -> Self {
        let length = offer.warm_up + offer.duration;
        let stream = |flow: &Flow| {
            let count = (flow.rate * length.as_secs_f64()) as u64;
            let targets = cast.targets(flow.audience);
            let schedule = Schedule { start_us, rate: flow.rate, count, targets };
            Stream { audience: flow.audience, reliable: flow.reliable, schedule }
        };
        let measure_from_us = start_us + offer.warm_up.as_micros() as u64;
        let storm = offer.storm.map(|storm| StormAt {
            at_us: measure_from_us + storm.after.as_micros() as u64,
            share: storm.share,
            spread_us: storm.spread.as_micros() as u64,
        });
        Self {
            run,
            streams: offer.streams.iter().map(stream).filter(|s| s.schedule.count > 0).collect(),
            measure_from_us,
            start_us,
            end_us: start_us + length.as_micros() as u64,
            storm,
        }
    }
}

impl Cast {
    /// How many targets an audience has.
    pub fn targets(&self, audience: Audience) -> u32 {
        match audience {
            Audience::Client => self.clients,
            Audience::Group => self.groups,
            Audience::Everyone => 1,
        }
    }

    /// A target's name, as producers and clients say it.
    pub fn name(&self, audience: Audience, target: u32) -> String {
        match audience {
            Audience::Client => format!("{}-c{target:06}", self.prefix),
            Audience::Group => format!("{}-g{target:06}", self.prefix),
            Audience::Everyone => "*".to_owned(),
        }
    }

    /// The targets of an audience that a client is among.
    pub fn targets_of(&self, client: u32, audience: Audience) -> Vec<u32> {
        match audience {
            Audience::Client => vec![client],
            Audience::Everyone => vec![0],
            Audience::Group if self.groups == 0 => Vec::new(),
            Audience::Group => {
                let count = self.groups_per_client.min(self.groups);
                (0..count).map(|i| (client + i) % self.groups).collect()
            }
        }
    }

    /// In which turn a client is to choose its edge: those of one group come in turns behind each other, so that every
    /// edge gets as many of each.
    pub fn turn(&self, client: u32) -> u32 {
        let groups = self.groups.max(1);
        (client / groups).wrapping_add(client % groups)
    }

    /// The numbers of the clients that this process holds.
    pub fn numbers(&self) -> std::ops::Range<u32> {
        self.first..self.first + self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edge_gets_as_many_of_each_group() {
        for (clients, groups, edges) in
            [(1_000, 10, 2), (1_000, 11, 2), (600, 6, 6), (300, 300, 3), (90, 0, 3)]
        {
            let cast =
                Cast { prefix: "x".into(), first: 0, held: clients, clients, groups, groups_per_client: 1 };
            let mut counts = std::collections::HashMap::<_, u32>::new();
            for client in 0..clients {
                let group = if groups == 0 || groups == clients { 0 } else { client % groups };
                *counts.entry((group, cast.turn(client) % edges)).or_default() += 1;
            }
            let each = counts.values();
            assert!(each.clone().max().unwrap() - each.min().unwrap() <= 1, "{clients} {groups} {edges}");
        }
    }

    #[test]
    fn everyone_is_in_as_many_groups_as_said() {
        let cast =
            Cast { prefix: "x".into(), first: 0, held: 10, clients: 10, groups: 4, groups_per_client: 2 };
        assert_eq!(cast.targets_of(3, Audience::Group), [3, 0]);
        assert_eq!(cast.targets_of(3, Audience::Client), [3]);
        assert_eq!(cast.name(Audience::Group, 3), "x-g000003");
        let few = Cast { groups: 1, ..cast };
        assert_eq!(few.targets_of(9, Audience::Group), [0]);
    }
}
