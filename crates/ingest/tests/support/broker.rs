//! A Redis or RabbitMQ of one test's own, which it may stop, by `scripts/broker`.

use std::path::PathBuf;
use std::process::Command;

use super::given;

/// Ended when dropped.
pub(crate) struct Broker {
    pub(crate) url: String,
    kind: &'static str,
    dir: tempfile::TempDir,
}

impl Broker {
    pub(crate) async fn start(kind: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = run(kind, "start", dir.path().into(), Vec::new()).await.trim().to_owned();
        Self { url, kind, dir }
    }

    /// `stop`, `kill`, `freeze`, `thaw`, or `start` again on the same port with the same data.
    pub(crate) async fn act(&self, action: &'static str) {
        run(self.kind, action, self.dir.path().into(), Vec::new()).await;
    }

    /// `redis-cli` or `rabbitmqctl`.
    pub(crate) async fn ctl(&self, arguments: &[&str]) -> String {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        run(self.kind, "ctl", self.dir.path().into(), arguments).await
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = command(self.kind, "kill", self.dir.path().into(), Vec::new()).output();
    }
}

fn command(kind: &str, action: &str, dir: PathBuf, arguments: Vec<String>) -> Command {
    let mut command = Command::new(given("HERALD_TEST_BROKER"));
    command.args([kind, action]).arg(dir).args(arguments);
    command.env("BROKER_OWNER", std::process::id().to_string());
    command
}

async fn run(kind: &'static str, action: &'static str, dir: PathBuf, arguments: Vec<String>) -> String {
    let mut command = command(kind, action, dir, arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "broker {kind} {action}: {out} {errors}");
    out.into_owned()
}
