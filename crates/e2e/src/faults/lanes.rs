//! Carries out the schedule: each lane's faults one after the other, the lanes beside each other.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::clients::Stall;
use super::schedule::{Fault, Kind, Lane, faults};
use super::{Run, World};
use crate::{Balancer, Broker, Herald, Process, Signal};

/// What faults happen to.
pub(super) struct Victims {
    pub(super) herald: Herald,
    pub(super) redis: Broker,
    pub(super) rabbitmq: Broker,
}

/// One lane at work.
struct At<'a> {
    world: &'a World,
    lane: Lane,
    run: Run,
}

impl Victims {
    /// Suffers all that the schedule has within the run's time; afterwards everything runs again, and the clients'
    /// networks are handed back.
    pub(super) async fn suffer(
        self,
        run: Run,
        (balancers, stalls): (Vec<Balancer>, Vec<Stall>),
        world: &Arc<World>,
    ) -> (Self, Vec<Balancer>) {
        let Self { mut herald, redis, rabbitmq } = self;
        let lane = |lane| {
            let world = world.clone();
            move |suffer: &mut dyn FnMut(&At<'_>, Fault)| At { world: &world, lane, run }.faults(suffer)
        };
        let [ingests, edges, registries, on_redis, on_rabbitmq, clients] = Lane::ALL.map(lane);
        let mut of_ingest = std::mem::take(&mut herald.ingests);
        let of_ingest = spawn_blocking(move || {
            ingests(&mut |at, fault| at.process(fault, &mut of_ingest));
            of_ingest
        });
        let mut of_edge = std::mem::take(&mut herald.edges);
        let of_edge = spawn_blocking(move || {
            edges(&mut |at, fault| at.process(fault, &mut of_edge));
            of_edge
        });
        let mut of_registry = std::mem::take(&mut herald.registries);
        let of_registry = spawn_blocking(move || {
            registries(&mut |at, fault| at.process(fault, &mut of_registry));
            of_registry
        });
        let redis = spawn_blocking(move || {
            on_redis(&mut |at, fault| at.broker(fault, &redis));
            redis
        });
        let rabbitmq = spawn_blocking(move || {
            on_rabbitmq(&mut |at, fault| at.broker(fault, &rabbitmq));
            rabbitmq
        });
        let clients = spawn_blocking(move || {
            clients(&mut |at, fault| at.client(fault, &balancers, &stalls));
            (balancers, stalls)
        });
        herald.ingests = of_ingest.await.expect("the ingests' faults");
        herald.edges = of_edge.await.expect("the edges' faults");
        herald.registries = of_registry.await.expect("the registries' faults");
        let redis = redis.await.expect("Redis' faults");
        let rabbitmq = rabbitmq.await.expect("RabbitMQ's faults");
        let (balancers, _) = clients.await.expect("the clients' faults");
        (Self { herald, redis, rabbitmq }, balancers)
    }
}

impl At<'_> {
    fn faults(&self, suffer: &mut dyn FnMut(&Self, Fault)) {
        for fault in faults(self.lane, self.run.seed) {
            if self.world.now() + fault.after > self.run.duration {
                return;
            }
            pause(fault.after);
            let client = (self.lane == Lane::Clients).then(|| self.victim(fault));
            self.world.account().fault(self.world.now(), fault.kind, client);
            suffer(self, fault);
        }
    }

    /// Which client; only plain ones can be told to stop reading.
    fn victim(&self, fault: Fault) -> usize {
        let Run { plain, official, .. } = self.run;
        fault.victim % if fault.kind == Kind::ReaderStalled { plain } else { plain + official }
    }

    fn process(&self, fault: Fault, all: &mut [Process]) {
        let index = fault.victim % all.len();
        let process = &mut all[index];
        match fault.kind {
            Kind::EdgeFrozen => {
                process.signal(Signal::Stop);
                pause(fault.lasts);
                process.signal(Signal::Cont);
                return;
            }
            Kind::IngestKilled | Kind::EdgeKilled | Kind::RegistryKilled => process.kill(),
            _ => assert_eq!(process.terminate(), Some(0), "{} ends in order", process.name),
        }
        pause(fault.lasts);
        process.start();
        process.wait_up();
    }

    fn broker(&self, fault: Fault, broker: &Broker) {
        match fault.kind {
            Kind::RedisFrozen => {
                broker.freeze();
                pause(fault.lasts);
                broker.thaw();
            }
            Kind::FeedClosed => {
                broker.ctl(&["client", "kill", "type", "pubsub"]);
            }
            Kind::AmqpClosed => {
                broker.ctl(&["-q", "close_all_connections", "told to by a test"]);
            }
            Kind::RedisKilled => {
                broker.kill();
                pause(fault.lasts);
                broker.start();
            }
            _ => {
                broker.stop();
                pause(fault.lasts);
                broker.start();
            }
        }
    }

    fn client(&self, fault: Fault, balancers: &[Balancer], stalls: &[Stall]) {
        match fault.kind {
            Kind::ReaderStalled => {
                let stall = &stalls[self.victim(fault)];
                let until = Instant::now() + fault.lasts;
                *stall.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(until);
            }
            Kind::HalfOpen => balancers[self.victim(fault)].vanish(),
            _ => balancers[self.victim(fault)].cut(),
        }
    }
}

fn pause(duration: Duration) {
    let until = Instant::now() + duration;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}
