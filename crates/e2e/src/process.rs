//! One process of a service: started with settings, awaited, signalled, started again on the same ports.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, Once, OnceLock, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::metrics::Metrics;
use crate::{http, place, until_blocking};

/// What can be sent to a process.
#[derive(Clone, Copy, Debug)]
pub enum Signal {
    /// SIGTERM: drain and end.
    Term,
    /// SIGKILL: a crash.
    Kill,
    /// SIGSTOP: there, but silent.
    Stop,
    /// SIGCONT: goes on.
    Cont,
}

/// A process of a service. Killed when dropped, or when the test process ends, however that ends.
#[derive(Debug)]
pub struct Process {
    /// What the tests call it, and its log file.
    pub name: String,
    /// Its public port.
    pub listen: SocketAddr,
    /// Its admin port.
    pub admin: SocketAddr,
    binary: PathBuf,
    settings: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// A process that is not started yet, with ports of its own.
    pub fn new(name: &str, binary: &str, settings: Vec<(String, String)>) -> Self {
        let log = place::run_dir().join(format!("{name}.log"));
        show_logs_on_panic(&log);
        Self {
            name: name.to_owned(),
            listen: place::free_address(),
            admin: place::free_address(),
            binary: place::binary(binary),
            settings,
            log,
            child: None,
        }
    }

    /// A setting, from the next start on.
    pub fn set(&mut self, setting: &str, value: &str) {
        self.settings.push((setting.to_owned(), value.to_owned()));
    }

    /// Starts it without waiting for anything.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} is running already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log file");
        let mut command = mortal(&self.binary);
        command
            .env_clear()
            .env("HERALD_LISTEN", self.listen.to_string())
            .env("HERALD_ADMIN_LISTEN", self.admin.to_string())
            .env("HERALD_LOG", "info,herald_ingest=debug,herald_edge=debug,herald_registry=debug")
            .env("RUST_BACKTRACE", "1")
            .envs(self.settings.iter().map(|(setting, value)| (setting, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log);
        self.child = Some(spawn(command));
    }

    /// Waits until `/readyz` says yes.
    pub fn wait_ready(&mut self) {
        let what = format!("{} is ready", self.name);
        until_blocking(&what, || {
            if let Some(status) = self.exited() {
                panic!("{} ended with {status} instead of getting ready", self.name);
            }
            self.is_ready().then_some(())
        });
    }

    /// Waits until it answers on its admin port, ready or not.
    pub fn wait_up(&self) {
        until_blocking(&format!("{} is up", self.name), || {
            self.admin_get("/livez").filter(|(code, _)| *code == 200)
        });
    }

    /// What `/readyz` says.
    pub fn is_ready(&self) -> bool {
        self.admin_get("/readyz").is_some_and(|(code, _)| code == 200)
    }

    /// Its metrics now.
    pub fn metrics(&self) -> Metrics {
        let (_, text) = self.admin_get("/metrics").unwrap_or_else(|| panic!("{} has no /metrics", self.name));
        Metrics::parse(&text)
    }

    /// Status and body of a page of its admin port; `None` when nobody answers.
    pub fn admin_get(&self, path: &str) -> Option<(u16, String)> {
        http::blocking_get(self.admin, path)
    }

    /// The URL of its public port.
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        assert!(send(signal, self.pid()), "cannot signal {}", self.name);
    }

    /// Lets it run for a part of the time only, in turns of 50 ms, for as long as what is returned lives.
    pub fn slowed(&self, runs: Duration) -> Slowed {
        let pid = self.pid();
        let (end, ended) = mpsc::channel::<()>();
        let turns = std::thread::spawn(move || {
            let over = |after| !matches!(ended.recv_timeout(after), Err(mpsc::RecvTimeoutError::Timeout));
            while send(Signal::Cont, pid) && !over(runs) && send(Signal::Stop, pid) && !over(TURN - runs) {}
            send(Signal::Cont, pid);
        });
        Slowed { end: Some(end), turns: Some(turns) }
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().unwrap_or_else(|| panic!("{} is not running", self.name)).id()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::Kill);
        let status = self.wait();
        assert_eq!(status.signal(), Some(9), "{} ended by itself: {status}", self.name);
    }

    /// SIGTERM, and waits for the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal(Signal::Term);
        self.wait().code()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let name = self.name.clone();
        let status = until_blocking(&format!("{name} ends"), || self.exited());
        self.child = None;
        status
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_mut().unwrap_or_else(|| panic!("{} is not running", self.name));
        child.try_wait().expect("the child can be waited for")
    }

    /// All that it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// A process that is slowed down until this is dropped.
#[derive(Debug)]
pub struct Slowed {
    end: Option<mpsc::Sender<()>>,
    turns: Option<JoinHandle<()>>,
}

/// From one turn of a slowed process to the next.
const TURN: Duration = Duration::from_millis(50);

impl Drop for Slowed {
    fn drop(&mut self) {
        self.end = None;
        // it panics nowhere
        let _ = self.turns.take().map(JoinHandle::join);
    }
}

/// False when the process is gone.
fn send(signal: Signal, pid: u32) -> bool {
    let name = match signal {
        Signal::Term => "-TERM",
        Signal::Kill => "-KILL",
        Signal::Stop => "-STOP",
        Signal::Cont => "-CONT",
    };
    let sent = Command::new("kill").args([name, &pid.to_string()]).stderr(Stdio::null()).status();
    sent.is_ok_and(|status| status.success())
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A command whose process the kernel kills when [`spawn`]'s thread ends, which is when the test process ends.
pub(crate) fn mortal(program: &Path) -> Command {
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Starts a process from a thread that lives as long as this process: a test's own thread ends with the test, and what
/// [`mortal`] asks for is bound to the thread that starts it.
pub(crate) fn spawn(command: Command) -> Child {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static STARTER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, taken) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in taken {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, started) = mpsc::channel();
    let what = format!("{command:?}");
    starter
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer))
        .expect("the starter lives");
    started
        .recv()
        .expect("the starter answers")
        .unwrap_or_else(|error| panic!("cannot start {what}: {error}"))
}

/// Where a client program's errors go.
pub(crate) fn log_file(name: &str) -> File {
    let path = place::run_dir().join(format!("{name}.log"));
    show_logs_on_panic(&path);
    OpenOptions::new().create(true).append(true).open(path).expect("a log file")
}

/// When a test fails, what each log has gained since the last failure is printed beside its message.
fn show_logs_on_panic(log: &Path) {
    static HOOK: Once = Once::new();
    static LOGS: Mutex<Vec<(PathBuf, usize)>> = Mutex::new(Vec::new());
    let mut logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
    if !logs.iter().any(|(known, _)| known == log) {
        logs.push((log.to_owned(), 0));
    }
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let mut logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
            eprint!("{}", logs.iter_mut().map(|(log, shown)| news(log, shown)).collect::<String>());
            drop(logs);
            before(info);
        }));
    });
}

/// The end of what a log has gained.
fn news(log: &Path, shown: &mut usize) -> String {
    const LINES: usize = 25;
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let start = lines.len().saturating_sub(LINES).max(*shown).min(lines.len());
    *shown = lines.len();
    let mut news = String::new();
    if start < lines.len() {
        let _ = writeln!(news, "--- the end of {}", log.display());
    }
    for line in &lines[start..] {
        let _ = writeln!(news, "{line}");
    }
    news
}
