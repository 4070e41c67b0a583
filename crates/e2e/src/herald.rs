//! A whole Herald of real processes, on names of its own: several share the brokers without noticing each other.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::process::Process;
use crate::producer::Producer;
use crate::registry::Registry;
use crate::{Brokers, http, place, until_blocking};

/// Which processes to start, and with what settings.
#[derive(Clone, Debug)]
pub struct Builder {
    name: String,
    redis_url: String,
    amqp_url: String,
    counts: Counts,
    settings: Vec<(&'static str, String, String)>,
}

#[derive(Clone, Copy, Debug)]
struct Counts {
    registries: usize,
    ingests: usize,
    edges: usize,
}

/// The running processes.
#[derive(Debug)]
pub struct Herald {
    /// The queue that producers publish to.
    pub queue: String,
    /// The dead-letter queue.
    pub dead_letters: String,
    /// Where RabbitMQ answers.
    pub amqp_url: String,
    /// The replicas of the registry; edge `i` attaches to replica `i` modulo their number.
    pub registries: Vec<Process>,
    /// The replicas of ingest.
    pub ingests: Vec<Process>,
    /// The edges.
    pub edges: Vec<Process>,
}

impl Builder {
    /// How many replicas of the registry; 1 unless said.
    pub fn registries(mut self, count: usize) -> Self {
        self.counts.registries = count;
        self
    }

    /// How many replicas of ingest; 1 unless said.
    pub fn ingests(mut self, count: usize) -> Self {
        self.counts.ingests = count;
        self
    }

    /// How many edges; 2 unless said.
    pub fn edges(mut self, count: usize) -> Self {
        self.counts.edges = count;
        self
    }

    /// Brokers of the test's own, which it may restart, and which need not be up.
    pub fn brokers(mut self, redis_url: &str, amqp_url: &str) -> Self {
        redis_url.clone_into(&mut self.redis_url);
        amqp_url.clone_into(&mut self.amqp_url);
        self
    }

    /// A setting of one kind of service: `registry`, `ingest` or `edge`.
    pub fn set(mut self, service: &'static str, setting: &str, value: &str) -> Self {
        self.settings.push((service, setting.to_owned(), value.to_owned()));
        self
    }

    /// The processes, not started.
    pub fn build(self) -> Herald {
        let unique = place::unique(&self.name);
        let processes = |service: &'static str, count: usize, all: &[(&str, &str)]| -> Vec<Process> {
            let mut settings: Vec<_> = all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let own = self.settings.iter().filter(|(of, ..)| *of == service);
            settings.extend(own.map(|(_, setting, value)| (setting.clone(), value.clone())));
            (0..count)
                .map(|i| {
                    let name = format!("{}-{service}-{i}", self.name);
                    Process::new(&name, &format!("herald-{service}"), settings.clone())
                })
                .collect()
        };
        let redis = [("HERALD_REDIS_URL", self.redis_url.as_str()), ("HERALD_REDIS_PREFIX", unique.as_str())];
        let dead_letters = format!("{unique}.dead");
        let amqp = [
            ("HERALD_AMQP_URL", self.amqp_url.as_str()),
            ("HERALD_QUEUE", unique.as_str()),
            ("HERALD_DEAD_LETTER", dead_letters.as_str()),
        ];
        let registries = processes("registry", self.counts.registries, &redis);
        let mut ingests = processes("ingest", self.counts.ingests, &[&redis[..], &amqp].concat());
        let mut edges = processes("edge", self.counts.edges, &redis);
        for (i, edge) in edges.iter_mut().enumerate() {
            edge.set("HERALD_ADVERTISE", &edge.url());
            if let Some(registry) = i.checked_rem(registries.len()).map(|i| registries[i].url()) {
                edge.set("HERALD_REGISTRY_URL", &registry);
            }
        }
        for ingest in &mut ingests {
            if let Some(registry) = registries.first() {
                ingest.set("HERALD_REGISTRY_URL", &registry.url());
            }
        }
        Herald { queue: unique, dead_letters, amqp_url: self.amqp_url, registries, ingests, edges }
    }

    /// The processes, all ready.
    pub fn start(self) -> Herald {
        let mut herald = self.build();
        herald.start();
        herald.wait_ready();
        herald
    }
}

impl Herald {
    /// A Herald on the shared brokers. `name` is for its logs.
    pub fn named(name: &str) -> Builder {
        let brokers = Brokers::shared();
        Self::on(name, &brokers.redis.url, &brokers.rabbitmq.url)
    }

    /// A Herald on brokers of the test's own, which need not be up.
    pub fn on(name: &str, redis_url: &str, amqp_url: &str) -> Builder {
        Builder {
            name: name.to_owned(),
            redis_url: redis_url.to_owned(),
            amqp_url: amqp_url.to_owned(),
            counts: Counts { registries: 1, ingests: 1, edges: 2 },
            settings: Vec::new(),
        }
    }

    /// Every process.
    pub fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        self.registries.iter_mut().chain(&mut self.ingests).chain(&mut self.edges)
    }

    /// Starts all processes at once: none may need another to be there first.
    pub fn start(&mut self) {
        self.processes().for_each(Process::start);
    }

    /// Waits until every process says that it is ready.
    pub fn wait_ready(&mut self) {
        self.processes().for_each(Process::wait_ready);
    }

    /// An edge's public address.
    pub fn edge(&self, index: usize) -> SocketAddr {
        self.edges[index].listen
    }

    /// An edge's URL.
    pub fn edge_url(&self, index: usize) -> String {
        self.edges[index].url()
    }

    /// A backend that publishes to this Herald's queue.
    pub async fn producer(&self) -> Producer {
        Producer::connect(&self.amqp_url, &self.queue).await
    }

    /// A client of a registry's replica.
    pub async fn registry(&self, index: usize) -> Registry {
        Registry::connect(self.registries[index].listen).await
    }

    /// Publishes over HTTP; the answer must be that it was accepted.
    pub async fn publish(&self, message: &Value) {
        let answer = http::publish(self.ingests[0].listen, message).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// A metric's sum over all processes of a kind.
    pub fn sum(processes: &[Process], name: &str, labels: &[(&str, &str)]) -> f64 {
        processes.iter().map(|process| process.metrics().sum(name, labels)).sum()
    }

    /// Waits until a metric's sum over some processes is at least this.
    pub fn wait_at_least(processes: &[Process], name: &str, labels: &[(&str, &str)], wanted: f64) {
        until_blocking(&format!("{name}{labels:?} is at least {wanted}"), || {
            (Self::sum(processes, name, labels) >= wanted).then_some(())
        });
    }

    /// Waits until a metric's sum over some processes is what it should be.
    pub fn wait_sum(processes: &[Process], name: &str, labels: &[(&str, &str)], wanted: f64) {
        until_blocking(&format!("{name}{labels:?} is {wanted}"), || {
            (Self::sum(processes, name, labels) == wanted).then_some(())
        });
    }
}

/// A message to one socketId.
pub fn to_socket(socket_id: &str, data: impl Into<Value>) -> Value {
    json!({"socketSessionId": socket_id, "data": data.into()})
}

/// A message to one group.
pub fn to_group(group: &str, data: impl Into<Value>) -> Value {
    json!({"socketGroupFlag": group, "data": data.into()})
}

/// The same message, which must not be lost.
pub fn reliable(mut message: Value) -> Value {
    message["isVolatile"] = json!(false);
    message
}
