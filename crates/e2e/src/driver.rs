//! Official clients, each in a program of `clients/` that is steered by lines of JSON. What the lines mean is written
//! in `clients/socketio.mjs` and `clients/browser.mjs`.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::wait::PATIENCE;
use crate::{Inbox, place, process};

type Answer = Result<Value, String>;

/// A running client program, which can hold many clients. Cloning is a reference count; the last one ends it.
#[derive(Clone)]
pub struct Driver(Arc<Shared>);

struct Shared {
    kind: &'static str,
    child: Mutex<Child>,
    stdin: Mutex<ChildStdin>,
    commands: AtomicU64,
    awaited: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    inboxes: Mutex<HashMap<String, UnboundedSender<Value>>>,
}

/// One client inside a [`Driver`].
pub struct SocketClient {
    /// What it reported.
    pub inbox: Inbox,
    name: String,
    driver: Driver,
}

impl Driver {
    /// The official JavaScript client, in Node.
    pub fn node() -> Self {
        Self::start("socketio.mjs", Path::new("/usr/bin/env"), &["node"])
    }

    /// `python-socketio`.
    pub fn python() -> Self {
        let given = std::env::var_os("HERALD_TEST_PYTHON").map(PathBuf::from);
        let python = given.unwrap_or_else(|| place::root().join("target/python/bin/python"));
        assert!(python.exists(), "{} is missing: run scripts/install first", python.display());
        Self::start("socketio_client.py", &python, &[])
    }

    /// Chromium; its clients are pages.
    pub fn browser() -> Self {
        Self::start("browser.mjs", Path::new("/usr/bin/env"), &["node"])
    }

    fn start(script: &'static str, program: &Path, arguments: &[&str]) -> Self {
        let clients = place::root().join("crates/e2e/clients");
        if script.ends_with(".mjs") {
            let packages = clients.join("node_modules/socket.io-client");
            assert!(packages.exists(), "{} is missing: run scripts/install first", packages.display());
        }
        let mut command = process::mortal(program);
        command
            .args(arguments)
            .arg(clients.join(script))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(process::log_file(script));
        let mut child = process::spawn(command);
        let stdin = child.stdin.take().expect("piped");
        let stdout = child.stdout.take().expect("piped");
        let driver = Self(Arc::new(Shared {
            kind: script,
            child: Mutex::new(child),
            stdin: Mutex::new(stdin),
            commands: AtomicU64::new(0),
            awaited: Mutex::default(),
            inboxes: Mutex::default(),
        }));
        let shared = Arc::downgrade(&driver.0);
        std::thread::spawn(move || {
            for line in lines(stdout) {
                let Some(shared) = shared.upgrade() else { return };
                shared.heard(line);
            }
            if let Some(shared) = shared.upgrade() {
                // who waits is told by the dropped senders
                lock(&shared.awaited).clear();
                lock(&shared.inboxes).clear();
            }
        });
        driver
    }

    /// A client that does nothing yet.
    pub fn client(&self, name: &str) -> SocketClient {
        let (events, inbox) = Inbox::new(&format!("{name} in {}", self.0.kind));
        lock(&self.0.inboxes).insert(name.to_owned(), events);
        SocketClient { inbox, name: name.to_owned(), driver: self.clone() }
    }

    /// A Socket.IO client that begins to connect to a server with the official client's options.
    pub async fn connecting(&self, name: &str, url: &str, options: Value) -> SocketClient {
        let client = self.client(name);
        client.command(json!({"do": "connect", "url": url, "options": options})).await;
        client
    }

    /// A Socket.IO client that has connected.
    pub async fn connect(&self, name: &str, url: &str, options: Value) -> SocketClient {
        let mut client = self.connecting(name, url, options).await;
        client.inbox.next("connect").await;
        client
    }

    /// A Socket.IO client that has connected and registered, and does so again whenever it connects anew.
    pub async fn registered(&self, name: &str, url: &str, options: Value, register: Value) -> SocketClient {
        let mut client = self.client(name);
        client.command(json!({"do": "connect", "url": url, "options": options, "register": register})).await;
        client.inbox.next("connect").await;
        let event = client.inbox.next("registered").await;
        assert_eq!(event["answer"]["ok"], true, "{name} could not register: {event}");
        client
    }
}

impl SocketClient {
    /// What the test calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a command and returns its answer; panics when it is an error.
    pub async fn command(&self, command: Value) -> Value {
        self.try_command(command).await.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// Sends a command and returns its answer or what went wrong.
    pub async fn try_command(&self, mut command: Value) -> Answer {
        let id = self.driver.0.commands.fetch_add(1, Ordering::Relaxed);
        command["id"] = json!(id);
        command["client"] = json!(self.name);
        let (answer, answered) = oneshot::channel();
        lock(&self.driver.0.awaited).insert(id, answer);
        let line = format!("{command}\n");
        lock(&self.driver.0.stdin).write_all(line.as_bytes()).expect("the client program reads");
        match timeout(PATIENCE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => panic!("{} ended before it answered {command}", self.driver.0.kind),
            Err(_) => panic!("{} did not answer {command}", self.driver.0.kind),
        }
    }

    /// Emits an event and returns what the server's acknowledgement carried.
    pub async fn ask(&self, event: &str, arguments: &[Value]) -> Value {
        self.command(json!({"do": "ask", "name": event, "args": arguments})).await
    }

    /// Registers, and returns the acknowledgement.
    pub async fn register(&self, register: Value) -> Value {
        self.ask("register", &[register]).await
    }

    /// Emits an event without asking for an acknowledgement.
    pub async fn emit(&self, event: &str, arguments: &[Value]) {
        self.command(json!({"do": "emit", "name": event, "args": arguments})).await;
    }

    /// The network goes, as the client sees it.
    pub async fn cut(&self) {
        self.command(json!({"do": "cut"})).await;
    }

    /// Says goodbye.
    pub async fn disconnect(&self) {
        self.command(json!({"do": "disconnect"})).await;
    }
}

impl Shared {
    fn heard(&self, mut line: Value) {
        if let Some(id) = line["reply"].as_u64() {
            let answer = match line["error"].as_str() {
                Some(error) => Err(error.to_owned()),
                None => Ok(line["ok"].take()),
            };
            if let Some(awaited) = lock(&self.awaited).remove(&id) {
                let _ = awaited.send(answer);
            }
        } else if let Some(inbox) =
            line["client"].as_str().and_then(|name| lock(&self.inboxes).get(name).cloned())
        {
            let _ = inbox.send(line);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn lines(stdout: ChildStdout) -> impl Iterator<Item = Value> {
    let lines = BufReader::new(stdout).lines().map_while(Result::ok);
    lines.map(|line| {
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("not a line of JSON ({e}): {line}"))
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
