//! The examples in JavaScript of README, as they are written there but for the port: whoever copies them gets what is
//! promised. Its commands are tried by `scripts/try-readme`, on the ports that they name.

#![allow(clippy::expect_used, clippy::panic, reason = "this is test code, though not all in test functions")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use herald_e2e::herald::{reliable, to_group};
use herald_e2e::place::root;
use herald_e2e::process::Process;
use herald_e2e::{Driver, PlainClient, Value, http, json};

/// How long an example may run, in seconds.
const SECONDS_MAX: &str = "30";

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).expect("there is a README")
}

/// The one example in JavaScript that holds this text, aimed at this Herald.
fn example(holds: &str, herald: &Process) -> String {
    let readme = readme();
    let blocks = readme.split("```js\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    let found: Vec<&str> = blocks.filter(|block| block.contains(holds)).collect();
    let [block] = found[..] else { panic!("README has {} examples with {holds}", found.len()) };
    assert!(block.contains("127.0.0.1:8080"), "{block}");
    block.replace("127.0.0.1:8080", &herald.listen.to_string())
}

fn herald() -> Process {
    let mut herald = Process::new("readme", "herald", Vec::new());
    herald.start();
    herald.wait_ready();
    herald
}

async fn publish(herald: &Process, message: &Value) {
    let answer = http::publish(herald.listen, message).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Node where the official client is installed; `timeout` so that an example which says nothing ends the test.
fn node(code: &str) -> Child {
    let mut command = Command::new("timeout");
    command.args([SECONDS_MAX, "node", "--input-type=module", "--eval", code]);
    command.current_dir(root().join("crates/e2e/clients")).stdout(Stdio::piped());
    command.spawn().expect("node runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socketio_example_registers_and_prints_what_it_is_sent() {
    let herald = herald();
    let mut node = node(&example("socket.io-client", &herald));
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines().map_while(Result::ok);
    let answer = lines.next().unwrap_or_default();
    for part in ["ok: true", "socketId: 'me'", "groups: [ 'news' ]"] {
        assert!(answer.contains(part), "{part} in {answer}");
    }
    publish(&herald, &to_group("news", json!({"headline": "hello"}))).await;
    assert_eq!(lines.next().as_deref(), Some("{ headline: 'hello' } undefined"));
    publish(&herald, &reliable(to_group("news", "kept"))).await;
    let line = lines.next().unwrap();
    assert!(line.strip_prefix("kept ").is_some_and(|cursor| cursor.len() >= 22), "{line}");
    let _newer = PlainClient::registered(herald.listen, json!({"socketId": "me"})).await;
    assert_eq!(lines.next().as_deref(), Some("somebody newer is me"));
    node.kill().unwrap();
    node.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_for_pages_work_in_a_browser() {
    let herald = herald();
    let browser = Driver::browser();
    let mut page = browser.client("page");
    page.command(json!({"do": "open", "url": herald.url()})).await;
    let script = example("new WebSocket", &herald);
    page.command(json!({"do": "eval", "script": script})).await;
    for said in ["hello", "registered"] {
        page.inbox.next_where("console", |line| line["text"].to_string().contains(said)).await;
    }
    publish(&herald, &to_group("news", "by websocket")).await;
    page.inbox.next_where("console", |line| line["text"].to_string().contains("message")).await;

    let readme = readme();
    let source = readme.split('`').find(|span| span.starts_with("new EventSource(")).expect("README has one");
    let script = format!(
        r#"new Promise((registered) => {{
            const source = {source};
            source.addEventListener("registered", () => registered(true));
            source.addEventListener("message", ({{ data }}) => tell("heard", {{ data: JSON.parse(data) }}));
        }})"#
    );
    assert_eq!(page.command(json!({"do": "eval", "script": script})).await, json!(true));
    publish(&herald, &to_group("news", "by events")).await;
    assert_eq!(page.inbox.next("heard").await["data"]["data"], "by events");
}
