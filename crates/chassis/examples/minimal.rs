//! The least a Herald binary is: settings, one port, one task. The chassis' tests run it as a process of its own.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use herald_chassis::config::{millis, number, url};
use herald_chassis::{Binary, Common, Problems, SecretUrl, Settings};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: herald_chassis::MiMalloc = herald_chassis::MiMalloc;

/// Reads commands from a port: `fail`, `panic`, `end`, `panic-in-a-connection`, `stay` (until the hard stage).
#[derive(clap::Parser)]
#[command(version)]
struct Config {
    /// Where commands are read.
    #[arg(long, env = "HERALD_LISTEN", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// A broker that is not really used.
    #[arg(long, env = "HERALD_REDIS_URL", value_parser = url(&["redis", "rediss"]))]
    redis_url: SecretUrl,
    /// A bounded number.
    #[arg(long, env = "HERALD_CONNECTIONS_MAX", default_value = "10", value_parser = number(1_u32..=100))]
    connections_max: u32,
    /// A switch.
    #[arg(long, env = "HERALD_QUICK")]
    quick: bool,
    /// A bounded duration.
    #[arg(long = "wait-ms", env = "HERALD_WAIT_MS", default_value = "5", value_parser = millis(1..=1000))]
    wait: Duration,
    #[command(flatten)]
    common: Common,
}

impl Settings for Config {
    fn common(&self) -> &Common {
        &self.common
    }

    fn validate(&self, problems: &mut Problems) {
        let enough = !self.quick || self.wait < Duration::from_millis(100);
        problems.check(enough, "HERALD_WAIT_MS", "must be below 100 when HERALD_QUICK is set");
    }
}

fn main() -> ExitCode {
    let binary = Binary { name: "minimal", version: env!("CARGO_PKG_VERSION") };
    herald_chassis::run(binary, async |config: Config, ctx| {
        let listener = herald_chassis::listen("HERALD_LISTEN", config.listen)?;
        tracing::info!(listen = %listener.local_addr()?, redis = %config.redis_url, "listening");
        let tasks = ctx.tasks.clone();
        ctx.tasks.spawn("commands", async move {
            tokio::select! {
                () = ctx.shutdown.soft() => Ok(()),
                ended = obey(listener, tasks) => ended,
            }
        });
        Ok(())
    })
}

#[allow(clippy::panic, reason = "panics are what is tried here")]
async fn obey(listener: TcpListener, tasks: herald_chassis::Tasks) -> std::io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let mut command = String::new();
        stream.read_to_string(&mut command).await?;
        match command.as_str() {
            "fail" => return Err(std::io::Error::other("told to")),
            "panic" => panic!("told to"),
            "end" => return Ok(()),
            "panic-in-a-connection" => tasks.track("connection", async { panic!("told to") }),
            "stay" => {
                let shutdown = tasks.shutdown().clone();
                tasks.track("connection", async move { shutdown.hard().await });
            }
            _ => {}
        }
    }
}
