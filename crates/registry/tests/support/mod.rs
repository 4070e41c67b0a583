//! A private redis-server, replicas over one store, and an edge that speaks to them. Knows nothing of what is tested.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is test code, though not in test functions")]

pub(crate) mod edge;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use herald_chassis::Context;
use herald_registry::{MemoryStore, Options, RedisStore, Store};
use herald_wire::registry::registry_client::RegistryClient;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// Longer than anything takes that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A redis-server of this test's own, without persistence; killed when dropped.
pub(crate) struct Redis {
    process: Option<Child>,
    port: u16,
    cluster: bool,
    directory: TempDir,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let mut redis = Self::stopped();
        redis.run();
        redis
    }

    /// Its port is known, and nobody listens there.
    pub(crate) fn stopped() -> Self {
        let port = free_port();
        Self { process: None, port, cluster: false, directory: tempfile::tempdir().unwrap() }
    }

    /// A cluster of one node, which has all slots and refuses what touches two of them.
    pub(crate) async fn start_cluster() -> Self {
        let mut redis = Self::stopped();
        redis.cluster = true;
        redis.run();
        redis.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
        until("the cluster is up", async || {
            let info: String = redis.command(&["CLUSTER", "INFO"]).await;
            info.contains("cluster_state:ok").then_some(())
        })
        .await;
        redis
    }

    pub(crate) fn run(&mut self) {
        let mut process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .args(["--cluster-enabled", if self.cluster { "yes" } else { "no" }])
            .args(["--cluster-port", &free_port().to_string()])
            .current_dir(self.directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("Ready to accept connections") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "redis-server did not start");
        }
        // its log must not fill the pipe
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        self.process = Some(process);
    }

    /// As `kill -9` does: all data is lost.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.cluster { "redis+cluster" } else { "redis" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    pub(crate) fn store(&self, lease: Duration) -> Store {
        Store::Redis(Arc::new(RedisStore::new(&self.url(), "test", lease).unwrap()))
    }

    pub(crate) async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]).query_async(&mut connection).await.unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn memory(lease: Duration) -> Store {
    Store::Memory(MemoryStore::new(lease))
}

/// One replica, in this process.
pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    pub(crate) ctx: Context,
}

impl Replica {
    pub(crate) fn start(store: Store, lease: Duration) -> Self {
        let listener = herald_chassis::listen("HERALD_LISTEN", "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let ctx = Context::new();
        let options = Options { lease, ..Options::default() };
        ctx.tasks.spawn("registry", herald_registry::run(store, options, listener, ctx.clone()));
        Self { address, ctx }
    }

    pub(crate) fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy()
    }

    pub(crate) fn client(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.channel())
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.ctx.shutdown.force();
    }
}

/// Asks until the answer is there, or patience ends.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
