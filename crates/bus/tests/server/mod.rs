//! Private Redis servers on free loopback ports, killed when they go out of scope.

#![allow(dead_code)] // each test binary uses its part

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Nothing here takes longer on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    pub(crate) port: u16,
    directory: TempDir,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Not started yet.
    pub(crate) fn new(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Self { port: free_port(), directory: tempfile::tempdir().unwrap(), arguments, child: None }
    }

    pub(crate) async fn started(arguments: &[&str]) -> Self {
        let mut server = Self::new(arguments);
        server.start().await;
        server
    }

    /// Watches a master named `main`.
    pub(crate) async fn sentinel(master: &Self) -> Self {
        let mut server = Self::new(&["--sentinel"]);
        let config = server.directory.path().join("sentinel.conf");
        fs::write(&config, format!("sentinel monitor main 127.0.0.1 {} 1\n", master.port)).unwrap();
        server.arguments.insert(0, config.to_string_lossy().into_owned());
        server.start().await;
        server
    }

    /// Resolves when it answers.
    pub(crate) async fn start(&mut self) {
        let child = Command::new("redis-server")
            .args(&self.arguments)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .arg("--dir")
            .arg(self.directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server must be in the PATH");
        self.child = Some(child);
        until("redis-server answers", async || match self.try_command(&["PING"]).await {
            Ok(_) => true,
            Err(error) => error.code() == Some("NOAUTH"),
        })
        .await;
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn command(&self, words: &[&str]) -> Value {
        self.try_command(words).await.unwrap()
    }

    pub(crate) async fn try_command(&self, words: &[&str]) -> redis::RedisResult<Value> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]).query_async(&mut connection).await
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Three masters that share the slots.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

impl Cluster {
    pub(crate) async fn started() -> Self {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            nodes.push(Self::node().await);
        }
        for (node, slots) in nodes.iter().zip([["0", "5460"], ["5461", "10922"], ["10923", "16383"]]) {
            node.command(&["CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]]).await;
        }
        for node in &nodes[1..] {
            let (port, bus_port) = (node.port.to_string(), node.arguments[5].clone());
            nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus_port]).await;
        }
        let cluster = Self { nodes };
        cluster.until_whole().await;
        cluster
    }

    /// Resolves when every node knows every slot's master.
    pub(crate) async fn until_whole(&self) {
        for node in &self.nodes {
            until("the cluster is whole", async || {
                let Value::BulkString(info) = node.command(&["CLUSTER", "INFO"]).await else { return false };
                let info = String::from_utf8(info).unwrap();
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            })
            .await;
        }
    }

    /// A fourth node that takes over from the first when that dies.
    pub(crate) async fn replica_of_first(&self) -> Server {
        let replica = Self::node().await;
        let (port, bus_port) = (replica.port.to_string(), replica.arguments[5].clone());
        self.nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus_port]).await;
        let Value::BulkString(id) = self.nodes[0].command(&["CLUSTER", "MYID"]).await else { panic!() };
        let id = String::from_utf8(id).unwrap();
        until("the replica knows its master", async || {
            replica.try_command(&["CLUSTER", "REPLICATE", &id]).await.is_ok()
        })
        .await;
        until("the others know the replica", async || {
            let answer = self.nodes[1].command(&["CLUSTER", "REPLICAS", &id]).await;
            format!("{answer:?}").contains(&port)
                && format!("{:?}", replica.command(&["INFO", "replication"]).await).contains("link_status:up")
        })
        .await;
        replica
    }

    async fn node() -> Server {
        let arguments = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port"];
        Server::started(&[&arguments[..], &[&free_port().to_string()]].concat()).await
    }

    pub(crate) fn url(&self) -> String {
        let hosts: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }
}

/// Asks again until it holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} until {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
