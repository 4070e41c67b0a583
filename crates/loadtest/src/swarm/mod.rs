//! The clients at work: a few threads, each with a loop over its sockets, ordered about by the run. What a client says is
//! [`crate::client`]'s.

mod dial;
mod link;
mod remote;
mod worker;

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc as replies;

pub use remote::{WORKER, work};

use crate::plan::{Cast, Plan, Round};
use crate::tally::{Events, Tally, Times};

/// What the threads are told to do. Each answers every order with one [`Reply`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// A round begins: every client opens its books.
    Begin(Round),
    /// How is it going?
    Sample,
    /// What is still due of the messages sent so far, by stream?
    Outstanding(Vec<u64>),
    /// The round is over: close the books.
    Settle(Settlement),
}

/// What was sent in a round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Settlement {
    /// Messages sent, by stream.
    pub(crate) sent: Vec<u64>,
    /// Of those, the ones that may not have been: stream, target, number; ascending.
    pub(crate) exempt: Vec<(u8, u32, u32)>,
}

impl Settlement {
    /// The numbers of one target that may not have been sent, ascending.
    pub(crate) fn exempt_of(&self, stream: u8, target: u32) -> Vec<u32> {
        let key = |entry: &(u8, u32, u32)| (entry.0, entry.1);
        let start = self.exempt.partition_point(|entry| key(entry) < (stream, target));
        let those = self.exempt[start..].iter().take_while(|entry| key(entry) == (stream, target));
        those.map(|entry| entry.2).collect()
    }
}

/// The answer to an [`Order`], of the same name.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// What was counted since the last round: connecting.
    Begun(Box<Tally>),
    Sample(Box<Sample>),
    Outstanding(Vec<u64>),
    Settled(Box<Tally>),
}

/// How it is going.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Clients that are registered.
    pub(crate) registered: u64,
    /// Messages that came since the round began.
    pub(crate) received: u64,
    /// Latencies since the round began.
    pub(crate) latency: Times,
    pub(crate) events: Events,
    /// What went wrong last with a connection.
    pub(crate) trouble: Option<String>,
}

impl Sample {
    pub(crate) fn add(&mut self, other: &Self) {
        self.registered += other.registered;
        self.received += other.received;
        self.latency.add(&other.latency);
        self.events.add(&other.events);
        if self.trouble.is_none() {
            self.trouble.clone_from(&other.trouble);
        }
    }
}

/// The threads of this process, or the processes whose clients count as its own.
#[derive(Debug)]
pub(crate) struct Swarm {
    workers: Vec<Handle>,
    remotes: Vec<remote::Remote>,
    /// How many answers an order has.
    answers: usize,
    replies: replies::Receiver<Reply>,
}

#[derive(Debug)]
struct Handle {
    orders: Option<mpsc::Sender<Order>>,
    waker: Arc<mio::Waker>,
    thread: Option<JoinHandle<()>>,
}

/// The threads cannot be started or are gone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SwarmError {
    #[error("a thread for clients cannot be started: {0}")]
    Start(#[from] std::io::Error),
    #[error("a thread that holds clients is gone")]
    Gone,
}

impl Swarm {
    /// Starts the threads or processes; clients begin to connect at once.
    pub(crate) fn start(plan: &Plan) -> Result<Self, SwarmError> {
        let threads = plan.threads.max(1);
        if plan.processes > 0 {
            return Self::start_processes(plan, threads);
        }
        let (answer, replies) = replies::channel(threads * 2);
        let plan = Arc::new(plan.clone());
        let workers = (0..threads)
            .map(|index| {
                let (orders, taken) = mpsc::channel();
                let worker = worker::Worker::new(&plan, (index, threads), taken, answer.clone())?;
                let waker = worker.waker();
                let thread = std::thread::Builder::new()
                    .name(format!("clients-{index}"))
                    .spawn(move || worker.run())?;
                Ok(Handle { orders: Some(orders), waker, thread: Some(thread) })
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self { workers, remotes: Vec::new(), answers: threads, replies })
    }

    fn start_processes(plan: &Plan, threads: usize) -> Result<Self, SwarmError> {
        let program = plan.program.clone().map_or_else(std::env::current_exe, Ok)?;
        let answers = threads * plan.processes as usize;
        let (answer, replies) = replies::channel(answers * 2);
        let start = |part: Plan| remote::Remote::start(&program, &part, answer.clone());
        let remotes = remote::parts(plan).into_iter().map(start).collect::<std::io::Result<_>>()?;
        Ok(Self { workers: Vec::new(), remotes, answers, replies })
    }

    /// Gives every thread an order, and returns their answers.
    pub(crate) async fn ask(&mut self, order: &Order) -> Result<Vec<Reply>, SwarmError> {
        for worker in &self.workers {
            let orders = worker.orders.as_ref().ok_or(SwarmError::Gone)?;
            orders.send(order.clone()).map_err(|_| SwarmError::Gone)?;
            worker.waker.wake()?;
        }
        for remote in &mut self.remotes {
            remote.order(order)?;
        }
        let mut answers = Vec::with_capacity(self.answers);
        for _ in 0..self.answers {
            answers.push(self.replies.recv().await.ok_or(SwarmError::Gone)?);
        }
        Ok(answers)
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            // without its orders' sender a thread ends
            worker.orders = None;
            let _ = worker.waker.wake();
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

/// The clients of one thread of several: every n-th, so that edges and groups are spread evenly.
fn share(cast: &Cast, (index, threads): (usize, usize)) -> impl Iterator<Item = u32> {
    cast.numbers().skip(index).step_by(threads)
}
