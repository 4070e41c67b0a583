//! Runs the example `minimal` as a process of its own. Knows nothing of what is tested with it.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "this is test code, though not in a test function")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

/// The example, which `cargo test` builds beside the tests.
pub(crate) fn minimal() -> Command {
    let mut path: PathBuf = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples/minimal");
    assert!(path.exists(), "{} is missing: cargo build -p herald-chassis --examples", path.display());
    let mut command = Command::new(path);
    command.env_clear();
    command
}

/// Runs it to its end: code and stderr.
pub(crate) fn output(command: &mut Command) -> (i32, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

/// The example while it runs; killed when dropped.
pub(crate) struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
    log: String,
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Running {
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        let mut child = minimal()
            .env("HERALD_REDIS_URL", "redis://:hunter2@localhost")
            .env("HERALD_ADMIN_LISTEN", "127.0.0.1:0")
            .envs(settings.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let unknown = ([0, 0, 0, 0], 0).into();
        let mut running = Self { child, stderr, log: String::new(), listen: unknown, admin: unknown };
        running.listen = running.address("listen=");
        running.admin = running.address("admin=");
        running
    }

    fn address(&mut self, field: &str) -> SocketAddr {
        let line = self.line_with(field);
        line.split_once(field).unwrap().1.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Reads the log until a line holds `text`.
    pub(crate) fn line_with(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "no {text:?} in:\n{}", self.log);
            self.log.push_str(&line);
            if line.contains(text) {
                return line;
            }
        }
    }

    pub(crate) fn tell(&self, command: &str) {
        TcpStream::connect(self.listen).unwrap().write_all(command.as_bytes()).unwrap();
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Waits for its end: code and log.
    pub(crate) fn wait(mut self) -> (i32, String) {
        let mut log = std::mem::take(&mut self.log);
        self.stderr.read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code().unwrap(), log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
