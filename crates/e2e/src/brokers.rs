//! Redis and RabbitMQ, run by `scripts/broker`: those that `scripts/with-brokers` started, or private ones.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::place;

/// One server.
#[derive(Debug)]
pub struct Broker {
    /// Where it answers; the same after a restart.
    pub url: String,
    kind: &'static str,
    dir: PathBuf,
    /// Ended with this value. Shared ones are `scripts/with-brokers`', or end with the test process.
    owned: bool,
}

/// What a Herald needs.
#[derive(Debug)]
pub struct Brokers {
    /// Carries the messages, holds logs and sessions.
    pub redis: Broker,
    /// Holds the backlog.
    pub rabbitmq: Broker,
}

impl Brokers {
    /// Servers that several tests use at once: nobody may restart them. Names keep the tests apart.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Brokers> = OnceLock::new();
        SHARED.get_or_init(|| Self { redis: shared("redis"), rabbitmq: shared("rabbitmq") })
    }
}

impl Broker {
    /// A Redis of this test's own.
    pub fn redis() -> Self {
        Self::started("redis", true)
    }

    /// A RabbitMQ of this test's own.
    pub fn rabbitmq() -> Self {
        Self::started("rabbitmq", true)
    }

    fn started(kind: &'static str, owned: bool) -> Self {
        let dir = place::run_dir().join(place::unique(kind));
        Self { url: start(kind, &dir), kind, dir, owned }
    }

    /// Starts it again, with its data and on its port.
    pub fn start(&self) {
        start(self.kind, &self.dir);
    }

    /// Ends it in order.
    pub fn stop(&self) {
        run(self.kind, "stop", &self.dir, &[]);
    }

    /// SIGKILL.
    pub fn kill(&self) {
        run(self.kind, "kill", &self.dir, &[]);
    }

    /// What a stopped Redis had is gone.
    pub fn lose_data(&self) {
        std::fs::remove_dir_all(self.dir.join("appendonlydir")).expect("its append-only files");
    }

    /// Connected, but silent.
    pub fn freeze(&self) {
        run(self.kind, "freeze", &self.dir, &[]);
    }

    /// Ends a freeze.
    pub fn thaw(&self) {
        run(self.kind, "thaw", &self.dir, &[]);
    }

    /// `redis-cli` or `rabbitmqctl`, aimed at this server: its output.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        run(self.kind, "ctl", &self.dir, arguments)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if self.owned {
            let _ = output(self.kind, "kill", &self.dir, &[]);
        }
    }
}

fn shared(kind: &'static str) -> Broker {
    let name = if kind == "redis" { "REDIS" } else { "AMQP" };
    let given = |what: &str| std::env::var(format!("HERALD_TEST_{name}_{what}")).ok();
    match (given("URL"), given("DIR")) {
        (Some(url), Some(dir)) => Broker { url, kind, dir: dir.into(), owned: false },
        _ => Broker::started(kind, false),
    }
}

fn start(kind: &str, dir: &Path) -> String {
    run(kind, "start", dir, &[]).trim().to_owned()
}

fn run(kind: &str, action: &str, dir: &Path, arguments: &[&str]) -> String {
    let output = output(kind, action, dir, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "scripts/broker {kind} {action}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn output(kind: &str, action: &str, dir: &Path, arguments: &[&str]) -> Output {
    Command::new(place::root().join("scripts/broker"))
        .args([kind, action])
        .arg(dir)
        .args(arguments)
        .env("BROKER_OWNER", std::process::id().to_string())
        .output()
        .expect("scripts/broker runs")
}
