//! Connections to Redis, one node or a cluster: commands go through a pool, events come by a connection of their own.
//! Knows no key and no script.

use std::time::Duration;

use deadpool_redis::{Manager, Pool, Runtime, cluster};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use redis::aio::PubSubStream;
use redis::{AsyncConnectionConfig, Client, Cmd, RedisError, Value, cmd};
use tokio::sync::Semaphore;

use crate::metrics;
use crate::store::StoreError;

/// Connections a replica opens for commands; further askers wait.
pub(crate) const CONNECTIONS_MAX: usize = 16;
/// Commands under way at once in one question to a cluster.
const IN_FLIGHT_MAX: usize = 128;
/// Commands that a replica has under way; who asks for more waits, before its time to be answered begins. Many edges at
/// once could otherwise ask for more than Redis can answer in that time, and would ask for it all again, for ever.
const COMMANDS_MAX: u32 = 2_000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const CLUSTER: &str = "redis+cluster://";

/// Redis cannot be used with this URL.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL cannot be read; it is not repeated here, because it may hold a password.
    #[error("HERALD_REDIS_URL cannot be used: {0}")]
    Url(#[from] RedisError),
    /// The pool cannot be made.
    #[error("no pool of connections to Redis: {0}")]
    Pool(#[from] deadpool_redis::BuildError),
    /// The pool of a cluster cannot be made.
    #[error("no pool of connections to the Redis cluster: {0}")]
    Cluster(#[from] cluster::CreatePoolError),
}

pub(super) struct Connections {
    pool: Commands,
    turns: Semaphore,
    // of a cluster any node will do: plain pub/sub reaches all of them
    events: Client,
}

enum Commands {
    One(Pool),
    Cluster(cluster::Pool),
}

impl Connections {
    pub(super) fn new(url: &str) -> Result<Self, ConnectError> {
        if let Some(nodes) = url.strip_prefix(CLUSTER) {
            let urls = cluster_urls(nodes);
            let events = Client::open(urls.first().map_or("", String::as_str))?;
            let mut config = cluster::Config::from_urls(urls);
            config.pool = Some(pool_config());
            let pool = config.create_pool(Some(Runtime::Tokio1))?;
            return Ok(Self { pool: Commands::Cluster(pool), turns: turns(), events });
        }
        let manager = Manager::new_with_config(url, connection_config())?;
        let pool = Pool::builder(manager).config(pool_config()).runtime(Runtime::Tokio1).build()?;
        Ok(Self { pool: Commands::One(pool), turns: turns(), events: Client::open(url)? })
    }

    /// Asks all of them, in order on one node, at once on a cluster. Fails when any of them does.
    pub(super) async fn ask(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, StoreError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let share = u32::try_from(commands.len()).unwrap_or(u32::MAX).min(COMMANDS_MAX);
        let _turn = match self.turns.try_acquire_many(share) {
            Ok(turn) => Some(turn),
            Err(_) => {
                metrics::store_waited();
                // nobody closes it
                self.turns.acquire_many(share).await.ok()
            }
        };
        let ask = async {
            match &self.pool {
                Commands::One(pool) => one(pool, commands).await,
                Commands::Cluster(pool) => many(pool, commands).await,
            }
        };
        tokio::time::timeout(ANSWER_TIMEOUT, ask).await.unwrap_or(Err(StoreError::Silent(ANSWER_TIMEOUT)))
    }

    /// Asks many calls of one script, which is loaded first: a restarted Redis has forgotten it.
    pub(super) async fn ask_loaded(
        &self,
        script: &Script,
        mut calls: Vec<Cmd>,
    ) -> Result<Vec<Value>, StoreError> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        match &self.pool {
            Commands::One(_) => {
                calls.insert(0, script.load());
                let mut answers = self.ask(calls).await?;
                answers.remove(0);
                Ok(answers)
            }
            Commands::Cluster(_) => {
                self.ask(vec![script.load()]).await?;
                self.ask(calls).await
            }
        }
    }

    pub(super) async fn subscribe(&self, channel: &str) -> Result<PubSubStream, StoreError> {
        let subscribe = async {
            let mut connection = self.events.get_async_pubsub().await?;
            connection.subscribe(channel).await?;
            Ok(connection.into_on_message())
        };
        tokio::time::timeout(CONNECT_TIMEOUT, subscribe)
            .await
            .unwrap_or(Err(StoreError::Silent(CONNECT_TIMEOUT)))
    }
}

fn turns() -> Semaphore {
    Semaphore::new(COMMANDS_MAX as usize)
}

async fn one(pool: &Pool, commands: Vec<Cmd>) -> Result<Vec<Value>, StoreError> {
    let mut connection = pool.get().await?;
    let mut pipeline = redis::Pipeline::with_capacity(commands.len());
    for command in commands {
        pipeline.add_command(command);
    }
    Ok(pipeline.query_async(&mut connection).await?)
}

async fn many(pool: &cluster::Pool, commands: Vec<Cmd>) -> Result<Vec<Value>, StoreError> {
    let connection = pool.get().await?;
    let answers = stream::iter(commands).map(|command| {
        let mut connection = (*connection).clone();
        async move { command.query_async::<Value>(&mut connection).await }
    });
    Ok(answers.buffered(IN_FLIGHT_MAX).try_collect().await?)
}

fn connection_config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(ANSWER_TIMEOUT))
}

fn pool_config() -> deadpool_redis::PoolConfig {
    let mut config = deadpool_redis::PoolConfig::new(CONNECTIONS_MAX);
    config.timeouts.wait = Some(ANSWER_TIMEOUT);
    config.timeouts.create = Some(CONNECT_TIMEOUT);
    config.timeouts.recycle = Some(CONNECT_TIMEOUT);
    config
}

/// `[user:password@]host:port,host:port` as one URL each.
fn cluster_urls(nodes: &str) -> Vec<String> {
    let (user, hosts) = nodes.rsplit_once('@').map_or(("", nodes), |(user, hosts)| (user, hosts));
    let at = if user.is_empty() { "" } else { "@" };
    hosts.split(',').map(|host| format!("redis://{user}{at}{host}")).collect()
}

/// A script of Redis.
pub(super) struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    pub(super) fn new(text: &'static str) -> Self {
        Self { text, hash: redis::Script::new(text).get_hash().to_owned() }
    }

    /// The command that runs it on these keys; arguments are appended to it.
    pub(super) fn call(&self, keys: &[&str]) -> Cmd {
        cmd("EVAL").arg(self.text).arg(keys.len()).arg(keys).to_owned()
    }

    /// The same in a few bytes, for `ask_loaded`.
    pub(super) fn call_loaded(&self, keys: &[&str]) -> Cmd {
        cmd("EVALSHA").arg(&self.hash).arg(keys.len()).arg(keys).to_owned()
    }

    fn load(&self) -> Cmd {
        cmd("SCRIPT").arg("LOAD").arg(self.text).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_a_url_for_each_node() {
        assert_eq!(cluster_urls("a:1,b:2"), ["redis://a:1", "redis://b:2"]);
        assert_eq!(cluster_urls("u:p@a:1,b:2"), ["redis://u:p@a:1", "redis://u:p@b:2"]);
    }
}
