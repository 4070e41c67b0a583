//! Clients held by other processes, since one may open only so many files. A process is told its part of the plan and then
//! orders, a line of JSON each on its standard input, and answers with a line of replies.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use tokio::sync::mpsc as replies;

use super::{Order, Reply, Swarm, SwarmError};
use crate::plan::{Cast, Plan};

/// The argument that makes `herald-loadtest` such a process.
pub const WORKER: &str = "--worker";

/// A process that holds clients. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Remote {
    child: Child,
    orders: Option<ChildStdin>,
}

impl Remote {
    /// Starts a process for a part of the plan; its answers go to `answer`.
    pub(super) fn start(program: &Path, part: &Plan, answer: replies::Sender<Reply>) -> io::Result<Self> {
        let mut child =
            Command::new(program).arg(WORKER).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = child.stdin.take();
        let answers = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut remote = Self { child, orders };
        remote.say(part)?;
        // ends with the process, or when nobody wants its answers
        std::thread::Builder::new().name("answers".into()).spawn(move || {
            for line in BufReader::new(answers).lines().map_while(Result::ok) {
                let Ok(replies) = serde_json::from_str::<Vec<Reply>>(&line) else { return };
                for reply in replies {
                    if answer.blocking_send(reply).is_err() {
                        return;
                    }
                }
            }
        })?;
        Ok(remote)
    }

    pub(super) fn order(&mut self, order: &Order) -> io::Result<()> {
        self.say(order)
    }

    fn say(&mut self, what: &impl serde::Serialize) -> io::Result<()> {
        let orders = self.orders.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        orders.write_all(&line)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // without orders it ends by itself
        self.orders = None;
        let _ = self.child.wait();
    }
}

/// The part of a plan that each of its processes gets.
pub(super) fn parts(plan: &Plan) -> Vec<Plan> {
    let count = plan.processes;
    let Cast { first, held, .. } = plan.cast;
    let begin = |index: u32| first + (u64::from(held) * u64::from(index) / u64::from(count)) as u32;
    let part = |index: u32| {
        let mut part = plan.clone();
        part.processes = 0;
        part.cast.first = begin(index);
        part.cast.held = begin(index + 1) - begin(index);
        part.connect_rate = plan.connect_rate / f64::from(count);
        part.behaviour.churn_rate = plan.behaviour.churn_rate / f64::from(count);
        part
    };
    (0..count).map(part).collect()
}

/// What such a process does: until its standard input ends.
///
/// # Errors
/// When its input is not understood, or its threads are gone.
pub fn work() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut lines = io::stdin().lines();
    let Some(part) = lines.next().transpose()? else { return Ok(()) };
    let plan: Plan = serde_json::from_str(&part)?;
    let mut swarm = Swarm::start(&plan)?;
    for line in lines {
        let order: Order = serde_json::from_str(&line?)?;
        let replies: Result<Vec<Reply>, SwarmError> = runtime.block_on(swarm.ask(&order));
        let mut answer = serde_json::to_vec(&replies?)?;
        answer.push(b'\n');
        let mut out = io::stdout().lock();
        out.write_all(&answer)?;
        out.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Behaviour, Protocol, Publish};

    #[test]
    fn every_client_is_in_one_part() {
        let plan = Plan {
            edges: vec![([127, 0, 0, 1], 1).into()],
            source: None,
            protocol: Protocol::Plain,
            cast: Cast {
                prefix: "x".into(),
                first: 0,
                held: 10,
                clients: 10,
                groups: 1,
                groups_per_client: 1,
            },
            connect_rate: 9.0,
            threads: 1,
            processes: 3,
            program: None,
            publish: Publish::Http(Vec::new()),
            volatile: None,
            publishers: 1,
            data_bytes: 200,
            behaviour: Behaviour::default(),
        };
        let parts = parts(&plan);
        let numbers: Vec<u32> = parts.iter().flat_map(|part| part.cast.numbers()).collect();
        assert_eq!(numbers, (0..10).collect::<Vec<u32>>());
        assert_eq!(plan.source_of(3_999).unwrap().to_string(), "127.0.0.1");
        assert_eq!(plan.source_of(999_999).unwrap().to_string(), "127.0.0.250");
        let text = serde_json::to_string(&parts[1]).unwrap();
        let back: Plan = serde_json::from_str(&text).unwrap();
        assert_eq!(back.cast, parts[1].cast);
    }
}
