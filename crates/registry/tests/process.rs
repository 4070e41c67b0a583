//! `herald-registry` as a process: what a deployment relies on.

#![allow(clippy::unwrap_used, reason = "this is test code, though not all in test functions")]

mod support;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use support::edge::Edge;
use support::{Redis, Replica, until};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStderr, Command};

fn registry() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herald-registry"));
    command.env_clear().kill_on_drop(true).stderr(Stdio::piped());
    command
}

async fn address(log: &mut BufReader<ChildStderr>, field: &str) -> SocketAddr {
    let mut line = String::new();
    while !line.contains(field) {
        line.clear();
        assert!(log.read_line(&mut line).await.unwrap() > 0, "no {field}");
    }
    line.split_once(field).unwrap().1.split_whitespace().next().unwrap().parse().unwrap()
}

async fn get(admin: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(admin).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn bad_settings_are_told_at_once() {
    let output = registry()
        .env("HERALD_REDIS_URL", "http://:hunter2@localhost")
        .env("HERALD_LEASE_MS", "1")
        .env("HERALD_LISTEN", "here")
        .output()
        .await
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert_eq!(told.lines().count(), 3, "{told}");
    for setting in ["HERALD_REDIS_URL: ", "HERALD_LEASE_MS: `1`", "HERALD_LISTEN: `here`"] {
        assert!(told.contains(setting), "{told}");
    }
    assert!(!told.contains("hunter2"), "{told}");
}

#[tokio::test]
async fn it_serves_says_how_it_is_and_drains_with_code_0() {
    let redis = Redis::start();
    let mut process = registry()
        .env("HERALD_REDIS_URL", redis.url())
        .env("HERALD_LISTEN", "127.0.0.1:0")
        .env("HERALD_ADMIN_LISTEN", "127.0.0.1:0")
        .spawn()
        .unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap());
    let grpc = address(&mut log, "listen=").await;
    let admin = address(&mut log, "admin=").await;
    let replica = Replica { address: grpc, ctx: herald_chassis::Context::new() };
    until("it is ready", async || get(admin, "/readyz").await.starts_with("HTTP/1.1 200").then_some(()))
        .await;
    let mut health = registry();
    health.env("HERALD_ADMIN_LISTEN", admin.to_string()).arg("--check-health");
    assert!(health.status().await.unwrap().success());
    let mut edge = Edge::attach(&replica, "e").await;
    edge.claim("s", 1, 9_000).await;
    edge.claim("s", 2, 3_000).await;
    assert_eq!(edge.evicted().await.connection, 1);
    until("the store is timed", async || {
        let metrics = get(admin, "/metrics").await;
        let lines = [
            "herald_registry_claims_total 2",
            "herald_registry_evictions_total 1",
            "herald_registry_attached_edges 1",
            "herald_registry_store_seconds_bucket{operation=\"claim\",le=\"60\"} 2",
        ];
        lines.iter().all(|line| metrics.contains(line)).then_some(())
    })
    .await;
    let pid = process.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    assert_eq!(edge.ended().await.code(), tonic::Code::Unavailable);
    let ended = tokio::time::timeout(Duration::from_secs(30), process.wait()).await.unwrap().unwrap();
    let mut rest = String::new();
    log.read_to_string(&mut rest).await.unwrap();
    assert_eq!(ended.code(), Some(0), "{rest}");
}
