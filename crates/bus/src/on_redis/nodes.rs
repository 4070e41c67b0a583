//! All nodes of a Redis: which one serves a key, and how commands get their answers from whichever do. One node is
//! the cluster with one node and no slots.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use redis::{Cmd, ConnectionInfo, Pipeline, RedisError, Value, cmd, pipe};
use tokio::time::{Instant, sleep_until};

use super::deployment::{Deployment, Place, at};
use super::node::{Limit, Node};
use super::slot::slot_of;
use crate::BusError;

/// Commands in one pipeline at most.
const PIPELINE_MAX: usize = 1_000;
/// Before a command that Redis could not take now (loading, slot on the move) is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

pub(super) struct Nodes {
    timeout: Duration,
    /// Empty where there is one node.
    seeds: Vec<ConnectionInfo>,
    map: RwLock<Arc<Map>>,
    refreshing: tokio::sync::Mutex<()>,
}

/// Which node serves what, as of some moment.
#[derive(Default)]
pub(super) struct Map {
    nodes: HashMap<String, Arc<Node>>,
    /// By first slot: first, last, node. Empty where there is one node.
    slots: Vec<(u16, u16, Arc<Node>)>,
}

/// A command on its way.
struct Call {
    /// Its place among the answers.
    index: usize,
    slot: u16,
    cmd: Cmd,
}

/// Calls that go to one node at once.
struct Batch {
    node: Arc<Node>,
    /// Index and slot of each.
    calls: Vec<(usize, u16)>,
    pipeline: Pipeline,
}

/// What a refusal that did nothing says about a second try.
enum Again {
    /// This one key is served elsewhere already.
    Ask(String),
    /// The node was demoted: Sentinel knows the new one.
    Reconnect,
    /// By the map as it is then.
    Later,
}

impl Nodes {
    pub(super) fn new(deployment: Deployment, timeout: Duration) -> Self {
        let (seeds, map) = match deployment {
            Deployment::One(place) => (Vec::new(), Map::one(Arc::new(Node::new(place)))),
            Deployment::Cluster { seeds } => (seeds, Map::default()),
        };
        Self { timeout, seeds, map: RwLock::new(Arc::new(map)), refreshing: tokio::sync::Mutex::default() }
    }

    pub(super) fn is_cluster(&self) -> bool {
        !self.seeds.is_empty()
    }

    /// The slot of a key; any number where there is one node.
    pub(super) fn slot_of(&self, key: &str) -> u16 {
        if self.is_cluster() { slot_of(key) } else { 0 }
    }

    /// One command.
    pub(super) async fn run_one(&self, key: &str, cmd: Cmd) -> Result<Value, BusError> {
        let mut answers = self.run(vec![(self.slot_of(key), cmd)]).await;
        answers.pop().unwrap_or_else(|| Err(unexpected("no answer")))
    }

    /// Sends each command to the node of its slot, in order, and answers in that order. What a node refuses because
    /// another serves it, or because it cannot now, is tried again until the timeout.
    ///
    /// Boxed once here: each caller's future would otherwise hold all of it, and that of its caller twice as much.
    pub(super) fn run(&self, commands: Vec<(u16, Cmd)>) -> BoxFuture<'_, Vec<Result<Value, BusError>>> {
        Box::pin(self.run_through(commands))
    }

    async fn run_through(&self, commands: Vec<(u16, Cmd)>) -> Vec<Result<Value, BusError>> {
        let deadline = Instant::now() + self.timeout;
        let mut answers: Vec<Result<Value, BusError>> = Vec::with_capacity(commands.len());
        answers.resize_with(commands.len(), || Ok(Value::Nil));
        let calls = commands.into_iter().enumerate();
        let mut open: Vec<Call> = calls.map(|(index, (slot, cmd))| Call { index, slot, cmd }).collect();
        while !open.is_empty() {
            let map = match self.map(deadline).await {
                Ok(map) => map,
                Err(error) => {
                    open.iter().for_each(|call| answers[call.index] = Err(error.clone()));
                    break;
                }
            };
            let batches = map.batches(std::mem::take(&mut open), &mut answers);
            let limit = Limit::new(deadline, self.timeout, self.is_cluster());
            let outcomes = join_all(batches.iter().map(|batch| batch.node.send(&batch.pipeline, limit)));
            for (batch, outcome) in batches.iter().zip(outcomes.await) {
                self.settle(batch, outcome, &mut answers, &mut open).await;
            }
            open.sort_by_key(|call| call.index);
            if !open.is_empty() {
                if Instant::now() + AGAIN_AFTER >= deadline {
                    break;
                }
                sleep_until(Instant::now() + AGAIN_AFTER).await;
                Box::pin(self.refresh(&map, deadline)).await;
            }
        }
        answers
    }

    /// Notes what one batch came to, and puts what must be tried again into `open`.
    async fn settle(
        &self,
        batch: &Batch,
        outcome: Result<Vec<Value>, BusError>,
        answers: &mut [Result<Value, BusError>],
        open: &mut Vec<Call>,
    ) {
        let values = match outcome {
            Ok(values) => values,
            Err(error) => {
                let retried = self.is_cluster() && matches!(error, BusError::Unreachable { .. });
                for ((index, slot), cmd) in batch.calls.iter().zip(batch.pipeline.cmd_iter()) {
                    answers[*index] = Err(error.clone());
                    if retried {
                        open.push(Call { index: *index, slot: *slot, cmd: cmd.clone() });
                    }
                }
                return;
            }
        };
        for ((value, (index, slot)), cmd) in
            values.into_iter().zip(&batch.calls).zip(batch.pipeline.cmd_iter())
        {
            let Value::ServerError(error) = value else {
                answers[*index] = Ok(value);
                continue;
            };
            let error = RedisError::from(error);
            match again(&error) {
                Some(Again::Ask(address)) => answers[*index] = Box::pin(self.ask(&address, cmd)).await,
                Some(why) => {
                    if matches!(why, Again::Reconnect) {
                        batch.node.disconnect();
                    }
                    open.push(Call { index: *index, slot: *slot, cmd: cmd.clone() });
                    answers[*index] = Err(refused(batch.node.place(), error));
                }
                None => answers[*index] = Err(refused(batch.node.place(), error)),
            }
        }
    }

    /// The node that a moving key is on already takes a command for it only with this word before it.
    async fn ask(&self, address: &str, command: &Cmd) -> Result<Value, BusError> {
        let Some(node) = self.node_at(address) else { return Err(unexpected("a redirection to nowhere")) };
        let mut pipeline = pipe();
        pipeline.cmd("ASKING").add_command(command.clone());
        let limit = Limit::new(Instant::now() + self.timeout, self.timeout, true);
        let mut values = node.send(&pipeline, limit).await?;
        match values.pop() {
            Some(Value::ServerError(error)) => Err(refused(node.place(), RedisError::from(error))),
            Some(value) => Ok(value),
            None => Err(unexpected("no answer")),
        }
    }

    /// A refusal that the node of a slot gave for a part of a call.
    pub(super) fn refused(&self, slot: u16, source: RedisError) -> BusError {
        let server = self.current().node(slot).map_or_else(String::new, |node| node.place().to_string());
        BusError::Refused { server, source }
    }

    fn node_at(&self, address: &str) -> Option<Arc<Node>> {
        if let Some(node) = self.current().nodes.get(address) {
            return Some(node.clone());
        }
        let (host, port) = address.rsplit_once(':')?;
        Some(Arc::new(Node::new(Place::At(Box::new(at(self.seeds.first()?, host, port.parse().ok()?))))))
    }

    /// Whether every node answers.
    pub(super) async fn ping(&self) -> Result<(), BusError> {
        self.ask_all(cmd("PING")).await.map(drop)
    }

    /// Every node's answer to a command, with the node's name; or the first error.
    pub(super) async fn ask_all(&self, cmd: Cmd) -> Result<Vec<(String, Value)>, BusError> {
        let deadline = Instant::now() + self.timeout;
        let map = self.map(deadline).await?;
        let mut pipeline = pipe();
        pipeline.add_command(cmd);
        let limit = Limit::new(deadline, self.timeout, false);
        let ask = async |node: &Arc<Node>| (node.clone(), node.send(&pipeline, limit).await);
        let mut answers = Vec::with_capacity(map.nodes.len());
        for (node, outcome) in join_all(map.nodes.values().map(ask)).await {
            match outcome?.pop() {
                Some(Value::ServerError(error)) => {
                    return Err(refused(node.place(), RedisError::from(error)));
                }
                Some(value) => answers.push((node.place().to_string(), value)),
                None => return Err(unexpected("no answer")),
            }
        }
        Ok(answers)
    }

    fn current(&self) -> Arc<Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The map, asked for where there is none yet.
    pub(super) async fn map(&self, deadline: Instant) -> Result<Arc<Map>, BusError> {
        let map = self.current();
        if !map.nodes.is_empty() {
            return Ok(map);
        }
        Box::pin(self.refresh(&map, deadline)).await;
        let map = self.current();
        if map.nodes.is_empty() {
            let server = self.seeds.iter().map(|seed| seed.addr().to_string()).collect::<Vec<_>>().join(", ");
            return Err(BusError::Unreachable { server, after: self.timeout, source: None });
        }
        Ok(map)
    }

    /// Asks a cluster for a newer map than `stale`, unless someone else just did; until the deadline.
    pub(super) async fn refresh(&self, stale: &Arc<Map>, deadline: Instant) {
        if !self.is_cluster() {
            return;
        }
        let _turn = self.refreshing.lock().await;
        let mut asked: Vec<Arc<Node>> = stale.nodes.values().cloned().collect();
        asked.extend(self.seeds.iter().map(|seed| Arc::new(Node::new(Place::At(Box::new(seed.clone()))))));
        let share = self.timeout / asked.len().max(1) as u32;
        for node in &asked {
            if !Arc::ptr_eq(&self.current(), stale) || Instant::now() >= deadline {
                return;
            }
            let mut pipeline = pipe();
            pipeline.add_command(cmd("CLUSTER")).arg("SLOTS");
            let limit = Limit::new(deadline.min(Instant::now() + share), share, false);
            let answer = node.send(&pipeline, limit).await;
            let map = answer.ok().and_then(|values| Map::read(values, node.place(), &stale.nodes));
            if let Some(map) = map {
                *self.map.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(map);
                return;
            }
        }
    }
}

impl Map {
    fn one(node: Arc<Node>) -> Self {
        Self { nodes: HashMap::from([(node.place().to_string(), node)]), slots: Vec::new() }
    }

    /// The node that serves a slot; `None` when the cluster says that none does.
    pub(super) fn node(&self, slot: u16) -> Option<&Arc<Node>> {
        if self.slots.is_empty() {
            return self.nodes.values().next();
        }
        let at = self.slots.partition_point(|(first, ..)| *first <= slot).checked_sub(1)?;
        self.slots.get(at).filter(|(_, last, _)| slot <= *last).map(|(.., node)| node)
    }

    /// Any node.
    pub(super) fn any(&self) -> Option<&Arc<Node>> {
        self.nodes.values().next()
    }

    /// Groups calls by node, keeping their order; those of a slot that nobody serves fail.
    fn batches(&self, calls: Vec<Call>, answers: &mut [Result<Value, BusError>]) -> Vec<Batch> {
        let mut batches: Vec<Batch> = Vec::new();
        for call in calls {
            let Some(node) = self.node(call.slot) else {
                let server = format!("slot {}", call.slot);
                answers[call.index] =
                    Err(BusError::Unreachable { server, after: Duration::ZERO, source: None });
                continue;
            };
            let fits = |b: &&mut Batch| Arc::ptr_eq(&b.node, node) && b.calls.len() < PIPELINE_MAX;
            match batches.iter_mut().rev().find(fits) {
                Some(batch) => batch.add(call),
                None => {
                    let mut batch = Batch { node: node.clone(), calls: Vec::new(), pipeline: pipe() };
                    batch.add(call);
                    batches.push(batch);
                }
            }
        }
        batches
    }

    /// Reads what `CLUSTER SLOTS` answered: first, last, [host, port, …] of the master, replicas. Nodes that are
    /// known keep their connections.
    fn read(mut values: Vec<Value>, asked: &Place, known: &HashMap<String, Arc<Node>>) -> Option<Self> {
        let Place::At(asked) = asked else { return None };
        let Value::Array(ranges) = values.pop()? else { return None };
        let mut map = Self::default();
        for range in ranges {
            let Value::Array(range) = range else { return None };
            let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = range.as_slice() else {
                return None;
            };
            let [host, Value::Int(port), ..] = master.as_slice() else { return None };
            let place = match host {
                Value::BulkString(host) if !host.is_empty() => {
                    at(asked, std::str::from_utf8(host).ok()?, u16::try_from(*port).ok()?)
                }
                // a node that does not know its own address means the one it was asked at
                _ => asked.as_ref().clone(),
            };
            let address = place.addr().to_string();
            let node = map.nodes.entry(address.clone()).or_insert_with(|| {
                known
                    .get(&address)
                    .cloned()
                    .unwrap_or_else(|| Arc::new(Node::new(Place::At(Box::new(place)))))
            });
            map.slots.push((u16::try_from(*first).ok()?, u16::try_from(*last).ok()?, node.clone()));
        }
        map.slots.sort_by_key(|(first, ..)| *first);
        (!map.slots.is_empty()).then_some(map)
    }
}

impl Batch {
    fn add(&mut self, call: Call) {
        self.calls.push((call.index, call.slot));
        self.pipeline.add_command(call.cmd);
    }
}

fn again(error: &RedisError) -> Option<Again> {
    match error.code()? {
        "READONLY" => Some(Again::Reconnect),
        "ASK" => error.redirect_node().map(|(address, _)| Again::Ask(address.to_owned())),
        "MOVED" | "TRYAGAIN" | "LOADING" | "CLUSTERDOWN" | "MASTERDOWN" => Some(Again::Later),
        _ => None,
    }
}

fn refused(place: &Place, source: RedisError) -> BusError {
    BusError::Refused { server: place.to_string(), source }
}

pub(super) fn unexpected(what: &str) -> BusError {
    BusError::Reply { what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let master = Value::Array(vec![host, Value::Int(port), bulk("id"), Value::Array(vec![])]);
        Value::Array(vec![Value::Int(first), Value::Int(last), master])
    }

    fn seed() -> Place {
        match Deployment::parse("redis+cluster://:p@seed:7").unwrap() {
            Deployment::Cluster { mut seeds } => Place::At(Box::new(seeds.remove(0))),
            Deployment::One(_) => panic!(),
        }
    }

    #[test]
    fn a_slot_map_is_read_and_known_nodes_are_kept() {
        let answer = || {
            let ranges = vec![range(8_000, 16_383, bulk("b"), 2), range(0, 7_000, bulk(""), 1)];
            vec![Value::Array(ranges)]
        };
        let map = Map::read(answer(), &seed(), &HashMap::new()).unwrap();
        let place = |slot| map.node(slot).map(|node| node.place().to_string());
        assert_eq!(place(0).as_deref(), Some("seed:7"));
        assert_eq!(place(7_000).as_deref(), Some("seed:7"));
        assert_eq!(place(7_001), None);
        assert_eq!(place(16_383).as_deref(), Some("b:2"));
        let next = Map::read(answer(), &seed(), &map.nodes).unwrap();
        assert!(Arc::ptr_eq(next.node(9_000).unwrap(), map.node(9_000).unwrap()));
    }

    #[test]
    fn what_is_not_a_slot_map_is_not_read() {
        for answer in [
            vec![],
            vec![Value::Nil],
            vec![Value::Array(vec![])],
            vec![Value::Array(vec![Value::Nil])],
            vec![Value::Array(vec![range(0, 99_999, bulk("b"), 2)])],
        ] {
            assert!(Map::read(answer, &seed(), &HashMap::new()).is_none());
        }
    }
}
