//! The task behind a feed on Redis: it keeps what is wanted subscribed, on one link per node, for ever.
//!
//! There is one rule. `missing` is what is wanted and not confirmed; whenever there is any, it is subscribed on the
//! node that serves it now, over a link that is opened if need be; when a link is lost all it carried is missing. So
//! first start, reconnect, failover and moved slots are the same code.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use herald_wire::{Names, Target};
use redis::RedisResult;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::backoff::Backoff;
use super::deployment::Place;
use super::link::{Link, Surroundings};
use super::nodes::{Map, Nodes};
use crate::BusError;
use crate::metrics::Metrics;
use crate::queue::{FeedQueue, Interruption};

/// Calls waiting for the task to take them; their callers wait.
const REQUESTS_MAX: usize = 1_024;
/// How long the cluster may take to tell its slots.
const MAP_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub(crate) struct RedisSubscriptions {
    requests: mpsc::Sender<Request>,
}

struct Request {
    targets: Vec<Target>,
    wanted: bool,
    done: oneshot::Sender<()>,
}

impl RedisSubscriptions {
    pub(crate) async fn subscribe(&self, targets: &[Target]) -> Result<(), BusError> {
        self.request(targets, true).await
    }

    pub(crate) async fn unsubscribe(&self, targets: &[Target]) -> Result<(), BusError> {
        self.request(targets, false).await
    }

    async fn request(&self, targets: &[Target], wanted: bool) -> Result<(), BusError> {
        if targets.is_empty() {
            return Ok(());
        }
        let (done, answer) = oneshot::channel();
        let request = Request { targets: targets.to_vec(), wanted, done };
        self.requests.send(request).await.map_err(|_| BusError::FeedEnded)?;
        answer.await.map_err(|_| BusError::FeedEnded)
    }
}

pub(super) fn start(
    nodes: Arc<Nodes>,
    names: Arc<Names>,
    queue: Arc<FeedQueue>,
    metrics: Metrics,
) -> (RedisSubscriptions, AbortOnDropHandle<()>) {
    let (requests, incoming) = mpsc::channel(REQUESTS_MAX);
    let lost = Arc::new(Notify::new());
    let around = Surroundings { names, queue, lost, sharded: nodes.is_cluster() };
    let carrier = Carrier {
        nodes,
        around,
        metrics,
        links: HashMap::new(),
        carried: HashMap::new(),
        missing: HashSet::new(),
        unwanted: HashSet::new(),
        waiting: Vec::new(),
        up: None,
        stale: None,
        backoff: Backoff::default(),
    };
    (RedisSubscriptions { requests }, AbortOnDropHandle::new(tokio::spawn(carrier.run(incoming))))
}

struct Carrier {
    nodes: Arc<Nodes>,
    around: Surroundings,
    metrics: Metrics,
    /// By the address of the node.
    links: HashMap<Arc<str>, Link>,
    /// Confirmed, and by which link.
    carried: HashMap<Target, Arc<str>>,
    /// Wanted and not carried.
    missing: HashSet<Target>,
    /// Carried and not wanted.
    unwanted: HashSet<Target>,
    waiting: Vec<(Vec<Target>, oneshot::Sender<()>)>,
    /// `None` before the first time, then whether everything wanted is carried since the last loss.
    up: Option<bool>,
    /// The map that led to a node that did not serve.
    stale: Option<Arc<Map>>,
    backoff: Backoff,
}

impl Carrier {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let _end = CloseOnDrop(self.around.queue.clone());
        let lost = self.around.lost.clone();
        let mut retry_at = Some(Instant::now());
        // without callers the feed goes on with what it carries
        let mut called = true;
        loop {
            tokio::select! {
                biased;
                () = lost.notified() => {}
                request = requests.recv(), if called => {
                    called = request.is_some();
                    let mut next = request;
                    while let Some(request) = next {
                        self.take(request);
                        next = requests.try_recv().ok();
                    }
                }
                () = sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {}
            }
            retry_at = self.step(retry_at).await;
        }
    }

    /// Does what is to be done, unless it is to wait; returns until when to wait for another attempt, if at all.
    async fn step(&mut self, retry_at: Option<Instant>) -> Option<Instant> {
        if self.drop_lost_links() {
            self.up = self.up.map(|_| false);
            // its link said so already, unless it was lost in the moment in which all was there again
            self.around.queue.down();
            self.backoff.failed();
            return Some(Instant::now() + self.backoff.delay());
        }
        if retry_at.is_some_and(|at| at > Instant::now()) {
            // an attempt failed: new wishes wait for the next one
            self.settle();
            return retry_at;
        }
        match self.reconcile().await {
            Ok(()) => {
                self.backoff.reset();
                self.settle();
                None
            }
            Err(error) => {
                self.metrics.feed_connect_failures.increment(1);
                tracing::warn!(%error, missing = self.missing.len(), "the feed cannot carry all that is wanted yet");
                self.backoff.failed();
                self.settle();
                Some(Instant::now() + self.backoff.delay())
            }
        }
    }

    fn take(&mut self, request: Request) {
        for target in &request.targets {
            let carried = self.carried.contains_key(target);
            if request.wanted {
                self.unwanted.remove(target);
                if !carried {
                    self.missing.insert(target.clone());
                }
            } else {
                self.missing.remove(target);
                if carried {
                    self.unwanted.insert(target.clone());
                }
            }
        }
        self.waiting.push((request.targets, request.done));
    }

    /// Answers the calls that have what they asked for, and tells the feed when all of it is there.
    fn settle(&mut self) {
        let missing = &self.missing;
        let waiting = std::mem::take(&mut self.waiting).into_iter().filter_map(|(targets, done)| {
            if done.is_closed() {
                return None;
            }
            if targets.iter().any(|target| missing.contains(target)) {
                return Some((targets, done));
            }
            // the caller may have gone just now
            let _ = done.send(());
            None
        });
        self.waiting = waiting.collect();
        let all_live = !self.links.is_empty() && self.links.values().all(Link::is_live);
        if self.up != Some(true) && all_live && self.missing.is_empty() {
            let reason = if self.up.is_none() { Interruption::Started } else { Interruption::Reconnected };
            self.up = Some(true);
            self.around.queue.interrupted(reason);
        }
    }

    fn drop_lost_links(&mut self) -> bool {
        let before = self.links.len();
        self.links.retain(|_, link| link.is_live());
        if self.links.len() == before {
            return false;
        }
        let (links, unwanted, missing) = (&self.links, &mut self.unwanted, &mut self.missing);
        self.carried.retain(|target, address| {
            let kept = links.contains_key(address);
            if !kept && !unwanted.remove(target) {
                missing.insert(target.clone());
            }
            kept
        });
        true
    }

    async fn reconcile(&mut self) -> RedisResult<()> {
        self.leave().await?;
        let map = self.map().await?;
        let mut outcome = Ok(());
        if self.missing.is_empty() && self.links.is_empty() {
            // nothing is wanted yet: a link all the same, so that the feed knows whether it could
            let node = map.any().ok_or_else(|| io_error("the cluster has no nodes"))?;
            outcome = self.link(node.place()).await.map(|_| ());
        }
        for (place, targets) in self.by_node(&map) {
            if let Err(error) = self.join(&place, &targets).await {
                outcome = Err(error);
            }
        }
        if outcome.is_ok() && !self.missing.is_empty() {
            outcome = Err(io_error("the cluster has slots that no node serves"));
        }
        if outcome.is_err() {
            self.stale = Some(map);
        }
        outcome
    }

    async fn map(&mut self) -> RedisResult<Arc<Map>> {
        let deadline = Instant::now() + MAP_TIMEOUT;
        if let Some(stale) = self.stale.take() {
            self.nodes.refresh(&stale, deadline).await;
        }
        self.nodes.map(deadline).await.map_err(|error| io_error(&error.to_string()))
    }

    fn by_node(&self, map: &Map) -> Vec<(Place, Vec<Target>)> {
        let mut places: HashMap<String, (Place, Vec<Target>)> = HashMap::new();
        for target in &self.missing {
            let slot = self.nodes.slot_of(&self.around.names.channel(target));
            // a slot that nobody serves stays missing
            let Some(node) = map.node(slot) else { continue };
            let place = node.place();
            let entry = places.entry(place.to_string()).or_insert_with(|| (place.clone(), Vec::new()));
            entry.1.push(target.clone());
        }
        places.into_values().collect()
    }

    async fn join(&mut self, place: &Place, targets: &[Target]) -> RedisResult<()> {
        let (address, link) = self.link(place).await?;
        let (done, outcome) = link.subscribe(targets).await;
        for target in done {
            self.missing.remove(&target);
            self.carried.insert(target, address.clone());
        }
        outcome
    }

    async fn leave(&mut self) -> RedisResult<()> {
        let mut by_link: HashMap<Arc<str>, Vec<Target>> = HashMap::new();
        for target in self.unwanted.drain() {
            if let Some(address) = self.carried.remove(&target) {
                by_link.entry(address).or_default().push(target);
            }
        }
        for (address, targets) in by_link {
            if let Some(link) = self.links.get_mut(&address) {
                link.unsubscribe(&targets).await?;
            }
        }
        Ok(())
    }

    async fn link(&mut self, place: &Place) -> RedisResult<(Arc<str>, &mut Link)> {
        let address: Arc<str> = place.to_string().into();
        if !self.links.contains_key(&address) {
            let link = Link::open(place, &self.around).await?;
            self.links.insert(address.clone(), link);
        }
        let link = self.links.get_mut(&address).ok_or_else(|| io_error("the link is gone"))?;
        Ok((address, link))
    }
}

fn io_error(text: &str) -> redis::RedisError {
    redis::RedisError::from(std::io::Error::other(text.to_owned()))
}

/// However the task ends, the feed's reader learns of it.
struct CloseOnDrop(Arc<FeedQueue>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}
