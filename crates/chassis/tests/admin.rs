//! The admin port over real loopback sockets.

#![allow(clippy::unwrap_used, reason = "this is test code, though not all in test functions")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use herald_chassis::Readiness;
use support::{Running, minimal, output};

fn ask(admin: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(admin: SocketAddr, path: &str) -> String {
    ask(admin, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
}

#[test]
fn a_process_tells_how_it_is() {
    let mut running = Running::start(&[]);
    running.line_with("condition=\"running\"");
    assert!(get(running.admin, "/livez").starts_with("HTTP/1.1 200"));
    let ready = get(running.admin, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    assert!(ready.contains(r#"{"conditions":{"running":"ok"},"ready":true}"#), "{ready}");
    running.tell("panic-in-a-connection");
    running.line_with("the others go on");
    let metrics = get(running.admin, "/metrics");
    for text in [
        "herald_build_info{service=\"minimal\",version=\"0.1.0\"} 1",
        "process_resident_memory_bytes",
        "herald_task_panics_total{task=\"connection\"} 1",
        "herald_runtime_alive_tasks",
    ] {
        assert!(metrics.contains(text), "{text} in {metrics}");
    }
    assert!(get(running.admin, "/nothing").starts_with("HTTP/1.1 404"));
    assert!(
        ask(running.admin, "POST /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").contains(" 405 ")
    );
    assert!(ask(running.admin, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
    let idle: Vec<_> = (0..32).map(|_| TcpStream::connect(running.admin).unwrap()).collect();
    assert!(get(running.admin, "/livez").starts_with("HTTP/1.1 200"));
    drop(idle);
}

#[test]
fn check_health_asks_the_running_process() {
    let mut running = Running::start(&[("HERALD_SHUTDOWN_GRACE_MS", "3600000")]);
    let mut check = minimal();
    check.env("HERALD_REDIS_URL", "redis://h").env("HERALD_ADMIN_LISTEN", running.admin.to_string());
    check.arg("--check-health");
    running.line_with("condition=\"running\"");
    assert_eq!(output(&mut check).0, 0);
    running.tell("stay");
    running.tell("panic-in-a-connection");
    running.line_with("the others go on");
    running.signal("-TERM");
    running.line_with("not ready");
    let (code, said) = output(&mut check);
    assert_eq!(code, 1);
    assert!(said.contains(r#"{"conditions":{"running":"draining"},"ready":false}"#), "{said}");
    running.signal("-TERM");
    assert_eq!(running.wait().0, 0);
    let (code, said) = output(&mut check);
    assert_eq!(code, 1);
    assert!(said.contains("nobody answers on"), "{said}");
}

#[tokio::test]
async fn each_condition_that_is_not_met_is_told() {
    let listener = herald_chassis::listen("HERALD_ADMIN_LISTEN", "127.0.0.1:0".parse().unwrap()).unwrap();
    let admin = listener.local_addr().unwrap();
    let readiness = Readiness::new();
    readiness.condition("feed", "Redis \"pub/sub\" is silent");
    let recorder = herald_chassis::telemetry::recorder().unwrap();
    let metrics = herald_chassis::telemetry::Metrics::new(recorder.handle());
    tokio::spawn(herald_chassis::admin::serve(listener, readiness, metrics));
    let answer = tokio::task::spawn_blocking(move || get(admin, "/readyz")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.contains(r#"{"conditions":{"feed":"Redis \"pub/sub\" is silent"},"ready":false}"#),
        "{answer}"
    );
}
