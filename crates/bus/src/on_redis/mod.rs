//! The bus on Redis: what each call of [`crate::Bus`] is in Redis' commands. How commands reach their node is
//! `nodes`', how messages come back is `carrier`'s.

mod backoff;
mod carrier;
mod clients;
mod deployment;
mod link;
mod node;
mod nodes;
mod publish;
mod reply;
mod script;
mod slot;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use herald_wire::{Cursor, Epoch, Names, Position, Target, names};
use redis::{Cmd, Value, cmd};

use crate::feed::{Carrier, Feed, Subscriptions};
use crate::metrics::Metrics;
use crate::queue::FeedQueue;
use crate::{BusError, Entry, FeedBacklog, FeedLimits, LogConfig, Publication, Published, RedisConfig};
pub(crate) use carrier::RedisSubscriptions;
use deployment::Deployment;
use nodes::Nodes;
use script::{Lua, Scripts};

/// Keys read by one command at most: meanwhile Redis does nothing else.
const KEYS_MAX: usize = 256;

/// The bus on Redis.
pub struct Redis {
    nodes: Arc<Nodes>,
    names: Arc<Names>,
    log: LogConfig,
    scripts: Scripts,
    metrics: Metrics,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("names", &self.names).field("log", &self.log).finish_non_exhaustive()
    }
}

impl Redis {
    pub(crate) fn new(config: RedisConfig) -> Result<Self, BusError> {
        let deployment = Deployment::parse(&config.url)?;
        Ok(Self {
            nodes: Arc::new(Nodes::new(deployment, config.response_timeout)),
            names: Arc::new(Names::new(&config.prefix)),
            log: config.log,
            scripts: Scripts::new(),
            metrics: Metrics::new(),
        })
    }

    pub(crate) async fn publish(&self, batch: &[Publication]) -> Vec<Result<Published, BusError>> {
        let started = Instant::now();
        let words =
            publish::Words { names: &self.names, log: &self.log, is_cluster: self.nodes.is_cluster() };
        let runs = publish::runs(batch, |target| self.slot_of(target));
        let call = |run: &publish::Run, script: fn(&Lua) -> Cmd| {
            (run.slot, words.call(&batch[run.of.clone()], &self.scripts, script))
        };
        let mut answers = self.nodes.run(runs.iter().map(|run| call(run, Lua::by_hash)).collect()).await;
        let unknown = unknown_scripts(&answers);
        if !unknown.is_empty() {
            let calls = unknown.iter().map(|index| call(&runs[*index], Lua::by_body)).collect();
            for (index, answer) in unknown.into_iter().zip(self.nodes.run(calls).await) {
                answers[index] = answer;
            }
        }
        let refused = |slot, source| self.nodes.refused(slot, source);
        let mut outcomes = Vec::with_capacity(batch.len());
        for (run, answer) in runs.iter().zip(answers) {
            publish::read(&batch[run.of.clone()], answer, |source| refused(run.slot, source), &mut outcomes);
        }
        self.metrics.published(&outcomes, started.elapsed());
        outcomes
    }

    pub(crate) async fn ping(&self) -> Result<(), BusError> {
        self.counted(self.nodes.ping().await)
    }

    /// How much each node holds back for each feed, by the name that feeds give their connections. Not counted as a
    /// failure where Redis forbids it: a deployment may.
    pub(crate) async fn feed_backlogs(&self) -> Result<Vec<FeedBacklog>, BusError> {
        let mut list = cmd("CLIENT");
        list.arg("LIST").arg("TYPE").arg("pubsub");
        let name = self.names.feed_client();
        let mut backlogs = Vec::new();
        for (node, answer) in self.nodes.ask_all(list).await? {
            let text = reply::text(answer).ok_or_else(|| nodes::unexpected("no list of clients"))?;
            backlogs.extend(
                clients::backlogs(&text, &name)
                    .map(|(id, bytes)| FeedBacklog { connection: format!("{node}/{id}"), bytes }),
            );
        }
        Ok(backlogs)
    }

    pub(crate) async fn epoch(&self) -> Result<Epoch, BusError> {
        let key = self.names.epoch();
        let slot = self.nodes.slot_of(&key);
        let mut create = cmd("SET");
        create.arg(&key).arg(fastrand::u32(1..)).arg("NX");
        let mut read = cmd("GET");
        read.arg(&key);
        let values = self.all(self.nodes.run(vec![(slot, create), (slot, read)]).await)?;
        let epoch = values.into_iter().next_back().and_then(|value| reply::number(&value));
        let epoch = epoch.and_then(|number| u32::try_from(number).ok());
        self.counted(epoch.map(Epoch).ok_or_else(|| nodes::unexpected("an epoch that is not a number")))
    }

    pub(crate) fn slot_of(&self, target: &Target) -> u16 {
        if self.nodes.is_cluster() {
            self.nodes.slot_of(&self.names.channel(target))
        } else {
            Cursor::ONE_REDIS
        }
    }

    pub(crate) fn feed(bus: &Arc<Self>, limits: FeedLimits) -> (Subscriptions, Feed) {
        let queue = Arc::new(FeedQueue::new(limits, bus.metrics.clone()));
        let (subscriptions, task) =
            carrier::start(bus.nodes.clone(), bus.names.clone(), queue.clone(), bus.metrics.clone());
        (Subscriptions(Carrier::Redis(subscriptions)), Feed { queue, _task: Some(task) })
    }

    pub(crate) async fn read_logs(
        &self,
        from: &[(Target, Position)],
        limit: usize,
    ) -> Result<Vec<Vec<Entry>>, BusError> {
        let call = |(target, after): &(Target, Position)| {
            let key = self.names.log(target);
            let mut call = cmd("XRANGE");
            call.arg(&key).arg(names::after(*after)).arg("+").arg("COUNT").arg(limit);
            (self.nodes.slot_of(&key), call)
        };
        self.entries(from.iter().map(call).collect()).await
    }

    pub(crate) async fn read_logs_back(
        &self,
        upto: &[(Target, Position)],
        limit: usize,
    ) -> Result<Vec<Vec<Entry>>, BusError> {
        let call = |(target, upto): &(Target, Position)| {
            let key = self.names.log(target);
            let mut call = cmd("XREVRANGE");
            call.arg(&key).arg(upto.stream_id()).arg("-").arg("COUNT").arg(limit);
            (self.nodes.slot_of(&key), call)
        };
        self.entries(upto.iter().map(call).collect()).await
    }

    async fn entries(&self, calls: Vec<(u16, Cmd)>) -> Result<Vec<Vec<Entry>>, BusError> {
        let values = self.all(self.nodes.run(calls).await)?;
        let logs = values.into_iter().map(|value| {
            reply::entries(value).ok_or_else(|| nodes::unexpected("a log entry without a place"))
        });
        self.counted(logs.collect())
    }

    pub(crate) async fn tails(&self, targets: &[Target]) -> Result<Vec<Position>, BusError> {
        let keys: Vec<_> = targets.iter().map(|target| self.names.last(target)).collect();
        self.positions(&keys).await
    }

    pub(crate) fn has_one_clock(&self) -> bool {
        !self.nodes.is_cluster()
    }

    pub(crate) async fn clock(&self) -> Result<Option<Position>, BusError> {
        if !self.has_one_clock() {
            return Ok(None);
        }
        Ok(self.positions(&[self.names.clock()]).await?.pop())
    }

    pub(crate) async fn load_sent(&self, target: &Target) -> Result<Position, BusError> {
        Ok(self.positions(&[self.names.sent(target)]).await?.pop().unwrap_or_default())
    }

    async fn positions(&self, keys: &[String]) -> Result<Vec<Position>, BusError> {
        // in a cluster, a command may only name keys of one slot
        let in_one_slot = |a: &String, b: &String| self.nodes.slot_of(a) == self.nodes.slot_of(b);
        let runs = keys.chunk_by(in_one_slot).flat_map(|run| run.chunks(KEYS_MAX));
        let call = |run: &[String]| {
            let mut call = cmd("MGET");
            call.arg(run);
            (self.nodes.slot_of(&run[0]), call)
        };
        let values = self.all(self.nodes.run(runs.map(call).collect()).await)?;
        let positions = reply::positions(values).filter(|positions| positions.len() == keys.len());
        self.counted(positions.ok_or_else(|| nodes::unexpected("not a position for each key")))
    }

    pub(crate) async fn save_session(&self, pid: &str, record: &[u8], ttl: Duration) -> Result<(), BusError> {
        self.put(&self.names.session(pid), record, ttl).await
    }

    pub(crate) async fn save_holder(
        &self,
        target: &Target,
        pid: &str,
        ttl: Duration,
    ) -> Result<(), BusError> {
        self.put(&self.names.holder(target), pid.as_bytes(), ttl).await
    }

    pub(crate) async fn load_holder(&self, target: &Target) -> Result<Option<String>, BusError> {
        let pid = self.get(&self.names.holder(target)).await?;
        Ok(pid.and_then(|pid| String::from_utf8(pid.into()).ok()))
    }

    async fn put(&self, key: &str, value: &[u8], ttl: Duration) -> Result<(), BusError> {
        let mut call = cmd("SET");
        call.arg(key).arg(value).arg("PX").arg(millis(ttl));
        self.counted(self.nodes.run_one(key, call).await.map(drop))
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, BusError> {
        let mut call = cmd("GET");
        call.arg(key);
        let value = match self.nodes.run_one(key, call).await {
            Ok(Value::Nil) => Ok(None),
            Ok(Value::BulkString(value)) => Ok(Some(Bytes::from(value))),
            Ok(_) => Err(nodes::unexpected("a value that is not a string")),
            Err(error) => Err(error),
        };
        self.counted(value)
    }

    pub(crate) async fn touch_sessions(
        &self,
        pids: &[String],
        ttl: Duration,
    ) -> Result<Vec<String>, BusError> {
        let call = |pid: &String| {
            let key = self.names.session(pid);
            let mut call = cmd("PEXPIRE");
            call.arg(&key).arg(millis(ttl));
            (self.nodes.slot_of(&key), call)
        };
        let answers = self.all(self.nodes.run(pids.iter().map(call).collect()).await)?;
        let gone = pids.iter().zip(&answers).filter(|(_, answer)| **answer == Value::Int(0));
        Ok(gone.map(|(pid, _)| pid.clone()).collect())
    }

    pub(crate) async fn load_session(&self, pid: &str) -> Result<Option<Bytes>, BusError> {
        self.get(&self.names.session(pid)).await
    }

    pub(crate) async fn save_sent(
        &self,
        marks: &[(Target, Position)],
        ttl: Duration,
    ) -> Result<(), BusError> {
        let call = |(target, position): &(Target, Position), script: fn(&Lua) -> Cmd| {
            let key = self.names.sent(target);
            let mut call = script(&self.scripts.save_sent);
            call.arg(1).arg(&key).arg(position.0).arg(millis(ttl));
            (self.nodes.slot_of(&key), call)
        };
        let mut answers = self.nodes.run(marks.iter().map(|mark| call(mark, Lua::by_hash)).collect()).await;
        if !unknown_scripts(&answers).is_empty() {
            // all of them again: a mark that is set twice stays where it is
            answers = self.nodes.run(marks.iter().map(|mark| call(mark, Lua::by_body)).collect()).await;
        }
        self.all(answers).map(drop)
    }

    /// All values, or the first error.
    fn all(&self, answers: Vec<Result<Value, BusError>>) -> Result<Vec<Value>, BusError> {
        self.counted(answers.into_iter().collect())
    }

    fn counted<T>(&self, outcome: Result<T, BusError>) -> Result<T, BusError> {
        outcome.inspect_err(|error| self.metrics.failed_with(error))
    }
}

/// Which calls met a node that lost its scripts.
fn unknown_scripts(answers: &[Result<Value, BusError>]) -> Vec<usize> {
    let unknown = |answer: &Result<Value, BusError>| matches!(answer, Err(BusError::Refused { source, .. }) if source.code() == Some("NOSCRIPT"));
    answers.iter().enumerate().filter(|(_, answer)| unknown(answer)).map(|(index, _)| index).collect()
}

fn millis(duration: Duration) -> u64 {
    // Redis refuses an expiry of zero
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
