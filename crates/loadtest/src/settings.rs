//! The command line: read whole, everything wrong with it told at once, and turned into a plan.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use herald_chassis::config::{bytes, millis, number, text, url};
use herald_chassis::{Problems, SecretUrl};
use herald_loadtest::{Audience, Behaviour, Cast, Flow, Offer, Plan, Protocol, Publish, Storm};

/// Drives load at Herald and accounts for every delivery.
#[derive(Clone, Debug, Parser)]
#[command(name = "herald-loadtest", version, about, max_term_width = 110)]
pub(crate) struct Settings {
    /// Public address of an edge; repeat it for several
    #[arg(long = "edge", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    edges: Vec<SocketAddr>,
    /// What clients speak
    #[arg(long, default_value = "socket-io")]
    protocol: Protocol,
    /// How many clients connect
    #[arg(long, value_name = "COUNT", default_value = "1000", value_parser = number(1..=1_000_000_u32))]
    clients: u32,
    /// Clients in each group, about
    #[arg(long, value_name = "COUNT", default_value = "100", value_parser = number(1..=1_000_000_u32))]
    group_size: u32,
    /// Groups that each client is in
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = number(1..=100_u32))]
    groups_per_client: u32,
    /// Clients that connect, a second
    #[arg(long, value_name = "PER SECOND", default_value = "2000", value_parser = number(1..=100_000_u32))]
    connect_rate: u32,
    /// Address of this machine from which clients connect: each has some 28,000 ports for an edge
    #[arg(long, value_name = "IP")]
    source: Option<IpAddr>,
    /// Threads that hold clients
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = number(1..=256_usize))]
    threads: usize,
    /// Processes that hold clients, each with so many threads; 0 is this one
    #[arg(long, value_name = "COUNT", default_value = "0", value_parser = number(0..=200_u32))]
    processes: u32,
    /// How long all clients together may take to connect, beyond what the connect rate says
    #[arg(long = "connect-patience-ms", value_name = "MS", default_value = "30000", value_parser = millis(0..=3_600_000))]
    connect_patience: Duration,

    /// Whom messages are for
    #[arg(long, default_value = "group", help_heading = "Messages")]
    workload: Workload,
    /// Messages a second, all streams together; `group`: each goes to a whole group
    #[arg(long, value_name = "PER SECOND", default_value = "100", value_parser = positive, help_heading = "Messages")]
    rate: f64,
    /// Of all messages, the part that is reliable, from 0 to 1
    #[arg(long, value_name = "PART", default_value = "1", value_parser = part, help_heading = "Messages")]
    reliable: f64,
    /// Of all messages of the workload `mixed`, the part for single clients, from 0 to 1
    #[arg(long, value_name = "PART", default_value = "0.5", value_parser = part, help_heading = "Messages")]
    unicast: f64,
    /// Length of each message's `data`
    #[arg(long, value_name = "BYTES", default_value = "200", value_parser = bytes(80..=1_000_000), help_heading = "Messages")]
    data_bytes: usize,
    /// Sent before anything is measured
    #[arg(long = "warm-up-ms", value_name = "MS", default_value = "2000", value_parser = millis(0..=3_600_000), help_heading = "Messages")]
    warm_up: Duration,
    /// Sent and measured; with the workload `idle`, how long clients stay
    #[arg(long = "duration-ms", value_name = "MS", default_value = "10000", value_parser = millis(100..=86_400_000), help_heading = "Messages")]
    duration: Duration,
    /// How long all that is due may take to arrive after the last message
    #[arg(long = "drain-ms", value_name = "MS", default_value = "30000", value_parser = millis(0..=3_600_000), help_heading = "Messages")]
    drain: Duration,

    /// Publish at http://ADDRESS/publish; repeat it for several
    #[arg(long = "publish-http", value_name = "ADDRESS", help_heading = "Publishing")]
    publish_http: Vec<SocketAddr>,
    /// Publish on RabbitMQ: amqp://user:password@host:port/vhost; the workload `idle` takes it and does not use it
    #[arg(long, value_name = "URL", value_parser = url(&["amqp", "amqps"]), help_heading = "Publishing")]
    amqp_url: Option<SecretUrl>,
    /// The queue on RabbitMQ
    #[arg(long, value_name = "NAME", default_value = "herald.messages", value_parser = text(255), help_heading = "Publishing")]
    queue: String,
    /// Publish volatile messages at http://ADDRESS/publish and only reliable ones on RabbitMQ; repeat it for several
    #[arg(long, value_name = "ADDRESS", help_heading = "Publishing")]
    volatile_http: Vec<SocketAddr>,
    /// Publish volatile messages on this other queue of RabbitMQ
    #[arg(long, value_name = "NAME", value_parser = text(255), help_heading = "Publishing")]
    volatile_queue: Option<String>,
    /// Do not ask RabbitMQ to confirm
    #[arg(long, help_heading = "Publishing")]
    no_confirms: bool,
    /// Publishers, each with a connection of its own; a target's messages all go through one. So many again for volatile
    /// messages that go another way
    #[arg(long, value_name = "COUNT", default_value = "4", value_parser = number(1..=64_u32), help_heading = "Publishing")]
    publishers: u32,

    /// Clients that lose their connection resume by `pid` and cursor
    #[arg(long, help_heading = "Behaviour")]
    resume: bool,
    /// Clients that leave and come back as somebody new, a second
    #[arg(long, value_name = "PER SECOND", default_value = "0", value_parser = number(0..=100_000_u32), help_heading = "Behaviour")]
    churn: u32,
    /// Of all clients, the part that stops reading once registered, from 0 to 1
    #[arg(long, value_name = "PART", default_value = "0", value_parser = part, help_heading = "Behaviour")]
    stalled: f64,
    /// When stalled clients read again, counted from the beginning of what is measured; 0 is never: then nothing is due to them
    #[arg(long = "stall-ms", value_name = "MS", default_value = "0", value_parser = millis(0..=3_600_000), help_heading = "Behaviour")]
    stall: Duration,
    /// When all clients lose their connections, counted from the beginning of what is measured
    #[arg(long = "storm-after-ms", value_name = "MS", value_parser = millis(0..=3_600_000), help_heading = "Behaviour")]
    storm_after: Option<Duration>,
    /// The part of the clients that a storm cuts, from 0 to 1
    #[arg(long, value_name = "PART", default_value = "1", value_parser = part, help_heading = "Behaviour")]
    storm_share: f64,
    /// Within which time they come back
    #[arg(long = "storm-spread-ms", value_name = "MS", default_value = "0", value_parser = millis(0..=600_000), help_heading = "Behaviour")]
    storm_spread: Duration,
    /// A client that hears nothing for this long connects anew; 0 is never [default: what the server's open packet says
    /// over Socket.IO, pingInterval and pingTimeout together, and 60000 for other protocols]
    #[arg(long = "silence-ms", value_name = "MS", value_parser = millis(0..=3_600_000), help_heading = "Behaviour")]
    silence: Option<Duration>,

    /// Constant rates one after another on the same connections, instead of --rate: 100,200,400
    #[arg(long, value_name = "RATES", value_delimiter = ',', value_parser = positive, help_heading = "Steps")]
    pub(crate) steps: Vec<f64>,

    /// Search for the highest rate that loses nothing and holds --p99-ms: doubling from --rate, then by halves
    #[arg(long, help_heading = "Search")]
    pub(crate) search: bool,
    /// The objective: 99 % of deliveries within this, from the schedule
    #[arg(long, value_name = "MS", default_value = "1000", value_parser = positive, help_heading = "Search")]
    pub(crate) p99_ms: f64,
    /// The search ends when the highest good and the lowest bad rate differ by less than this part
    #[arg(long, value_name = "PART", default_value = "0.05", value_parser = part, help_heading = "Search")]
    pub(crate) precision: f64,

    /// Write the report as JSON to this file
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(crate) json: Option<PathBuf>,
    /// Write one line a second to this file, as comma-separated values
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(crate) csv: Option<PathBuf>,
    /// Draw rates and latency over time, or with --steps or --search over the rates, as SVG into this file
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(crate) plot: Option<PathBuf>,
    /// Print nothing but the report
    #[arg(long, help_heading = "Results")]
    pub(crate) quiet: bool,
    /// Exit with 1 when anything is lost, duplicated or out of order, or the generator could not keep up
    #[arg(long, help_heading = "Results")]
    pub(crate) strict: bool,
    /// Tell CPU and memory of the process with this id or program name; repeat it for several
    #[arg(long, value_name = "PID|NAME", help_heading = "Results")]
    pub(crate) watch: Vec<String>,
    /// Admin address of a service: its histograms tell how long the stages of a message's way took; repeat it for all
    #[arg(long, value_name = "ADDRESS", help_heading = "Results")]
    pub(crate) scrape: Vec<SocketAddr>,
}

/// Whom messages are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// Groups in turn.
    Group,
    /// Single clients in turn.
    Unicast,
    /// Both.
    Mixed,
    /// Every registered client.
    Everyone,
    /// Nobody: clients only stay connected.
    Idle,
}

fn positive(value: &str) -> Result<f64, String> {
    let value: f64 = value.parse().map_err(|_| "is not a number")?;
    if (0.001..=10_000_000.0).contains(&value) {
        Ok(value)
    } else {
        Err("is not between 0.001 and 10000000".into())
    }
}

fn part(value: &str) -> Result<f64, String> {
    let value: f64 = value.parse().map_err(|_| "is not a number")?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err("is not between 0 and 1".into()) }
}

impl Settings {
    /// Adds whatever no single setting can tell of itself.
    pub(crate) fn validate(&self, problems: &mut Problems) {
        let ways = usize::from(!self.publish_http.is_empty()) + usize::from(self.amqp_url.is_some());
        let publishes = self.workload != Workload::Idle;
        // where nothing is published, it does not matter where
        problems.check(!publishes || ways == 1, "--amqp-url", "give this or --publish-http, and not both");
        let others = [
            ("--volatile-http", !self.volatile_http.is_empty()),
            ("--volatile-queue", self.volatile_queue.is_some()),
        ];
        for (name, is_given) in others {
            problems.check(
                !is_given || self.amqp_url.is_some(),
                name,
                "needs --amqp-url for reliable messages",
            );
        }
        let is_one = others.iter().filter(|(_, is_given)| *is_given).count() < 2;
        problems.check(is_one, "--volatile-queue", "give this or --volatile-http, and not both");
        problems.check(self.steps.is_empty() || !self.search, "--steps", "excludes --search");
        problems.check(self.steps.is_empty() || publishes, "--steps", "an idle run has no rate");
        problems.check(self.scrape.is_empty() || publishes, "--scrape", "an idle run has no messages");
        let is_narrow = f64::from(self.churn) <= f64::from(self.clients);
        problems.check(is_narrow, "--churn", "is more than there are clients");
        problems.check(!self.search || publishes, "--search", "an idle run has no rate");
        problems.check(self.plot.is_none() || publishes, "--plot", "an idle run has nothing to draw");
        problems.check(self.csv.is_none() || publishes, "--csv", "an idle run has no messages to count");
    }
}

impl Settings {
    pub(crate) fn is_idle(&self) -> bool {
        self.workload == Workload::Idle
    }

    pub(crate) fn patience(&self) -> Duration {
        self.connect_patience
    }

    pub(crate) fn duration(&self) -> Duration {
        self.duration
    }

    pub(crate) fn rate(&self) -> f64 {
        self.rate
    }

    pub(crate) fn plan(&self) -> Plan {
        let amqp = |queue: &String| {
            self.amqp_url.as_ref().map(|url| Publish::Amqp {
                url: url.expose().to_owned(),
                queue: queue.clone(),
                confirms: !self.no_confirms,
            })
        };
        let http = |to: &Vec<SocketAddr>| Publish::Http(to.clone());
        let publish = amqp(&self.queue).unwrap_or_else(|| http(&self.publish_http));
        let volatile = match &self.volatile_queue {
            Some(queue) => amqp(queue),
            None => (!self.volatile_http.is_empty()).then(|| http(&self.volatile_http)),
        };
        let cast = Cast {
            prefix: format!("load-{:08x}", fastrand::u32(..)),
            first: 0,
            held: self.clients,
            clients: self.clients,
            groups: (self.clients * self.groups_per_client).div_ceil(self.group_size),
            groups_per_client: self.groups_per_client,
        };
        Plan {
            edges: self.edges.clone(),
            source: self.source,
            protocol: self.protocol,
            cast,
            connect_rate: f64::from(self.connect_rate),
            threads: self.threads,
            processes: self.processes,
            program: None,
            publish,
            volatile,
            publishers: self.publishers,
            data_bytes: self.data_bytes,
            behaviour: Behaviour {
                resume: self.resume,
                churn_rate: f64::from(self.churn),
                stalled: self.stalled,
                stall: self.stall,
                silence: self.silence,
            },
        }
    }

    /// What is sent at a rate.
    pub(crate) fn offer(&self, rate: f64) -> Offer {
        let audiences = match self.workload {
            Workload::Group => vec![(Audience::Group, 1.0)],
            Workload::Unicast => vec![(Audience::Client, 1.0)],
            Workload::Everyone => vec![(Audience::Everyone, 1.0)],
            Workload::Mixed => vec![(Audience::Client, self.unicast), (Audience::Group, 1.0 - self.unicast)],
            Workload::Idle => Vec::new(),
        };
        let classes = [(true, self.reliable), (false, 1.0 - self.reliable)];
        let streams = audiences.iter().flat_map(|(audience, of)| {
            classes.map(|(reliable, part)| Flow { audience: *audience, reliable, rate: rate * of * part })
        });
        let storm = |after| Storm { after, share: self.storm_share, spread: self.storm_spread };
        Offer {
            streams: streams.filter(|flow| flow.rate > 0.0).collect(),
            warm_up: self.warm_up,
            duration: self.duration,
            drain: self.drain,
            storm: self.storm_after.map(storm),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMQP: [&str; 2] = ["--amqp-url", "amqp://127.0.0.1"];

    fn problems(more: &[&str]) -> Vec<String> {
        let settings = Settings::parse_from(["herald-loadtest"].iter().chain(more));
        let mut problems = Problems::default();
        settings.validate(&mut problems);
        problems.lines().map(str::to_owned).collect()
    }

    fn with_amqp(more: &[&str]) -> Vec<String> {
        problems(&[&AMQP, more].concat())
    }

    #[test]
    fn volatile_messages_go_another_way_only_beside_rabbitmq() {
        let [http, queue] = [["--volatile-http", "127.0.0.1:1"], ["--volatile-queue", "other"]];
        assert_eq!(with_amqp(&http), [""; 0]);
        assert_eq!(with_amqp(&queue), [""; 0]);
        assert_eq!(
            with_amqp(&[http, queue].concat()),
            ["--volatile-queue: give this or --volatile-http, and not both"]
        );
        let by_http = [["--publish-http", "127.0.0.1:1"], queue].concat();
        assert_eq!(problems(&by_http), ["--volatile-queue: needs --amqp-url for reliable messages"]);
    }

    #[test]
    fn steps_are_no_search_and_idle_runs_have_neither() {
        assert_eq!(with_amqp(&["--steps", "100,200.5"]), [""; 0]);
        assert_eq!(with_amqp(&["--steps", "100", "--search"]), ["--steps: excludes --search"]);
        assert_eq!(with_amqp(&["--workload", "idle"]), [""; 0]);
        assert_eq!(problems(&["--workload", "idle", "--steps", "1"]), ["--steps: an idle run has no rate"]);
        let counted = problems(&["--workload", "idle", "--csv", "file"]);
        assert_eq!(counted, ["--csv: an idle run has no messages to count"]);
        assert_eq!(problems(&[]), ["--amqp-url: give this or --publish-http, and not both"]);
    }

    #[test]
    fn steps_are_rates() {
        let settings = Settings::parse_from(["herald-loadtest", "--steps", "100,200.5"]);
        assert_eq!(settings.steps, [100.0, 200.5]);
        assert!(Settings::try_parse_from(["herald-loadtest", "--steps", "100,0"]).is_err());
    }
}
