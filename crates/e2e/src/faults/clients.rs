//! Clients that do what an application does: connect, register once, hand back what they were given to resume, and read.
//! What they get goes to the account.

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::interval;
use tungstenite::{Message, WebSocket};

use super::{World, load};
use crate::{Driver, SocketClient};

/// Edges ping every 2 s in these runs: a client that has heard nothing for longer gives its connection up.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// How often a client that reads looks whether it should.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Of the client's socket.
const BUFFER: u32 = 4_096;

/// Until when a client does not read.
pub(super) type Stall = Arc<Mutex<Option<Instant>>>;

/// A plain WebSocket client, in a thread of its own.
pub(super) struct Plain {
    stall: Stall,
}

/// An official client in Node.
pub(super) struct Official {
    reading: JoinHandle<()>,
}

impl Plain {
    /// Returns when it is registered.
    pub(super) async fn start(index: usize, server: SocketAddr, world: Arc<World>) -> Self {
        let stall = Stall::default();
        let (registered, told) = oneshot::channel();
        let (reader_stall, runtime) = (stall.clone(), Handle::current());
        thread::spawn(move || {
            let mut reader = Reader {
                index,
                server,
                world,
                stall: reader_stall,
                runtime,
                pid: None,
                cursor: None,
                registered: Some(registered),
            };
            while Arc::strong_count(&reader.stall) > 1 {
                // however it ends, it comes back
                let _ = reader.connection();
                thread::park_timeout(Duration::from_millis(fastrand::u64(50..300)));
            }
        });
        told.await.expect("the client registers");
        Self { stall }
    }

    pub(super) fn stall(&self) -> Stall {
        self.stall.clone()
    }
}

/// The connection is over.
struct Over;

struct Reader {
    index: usize,
    server: SocketAddr,
    world: Arc<World>,
    stall: Stall,
    runtime: Handle,
    pid: Option<String>,
    cursor: Option<String>,
    registered: Option<oneshot::Sender<()>>,
}

impl Reader {
    fn connection(&mut self) -> Result<(), Over> {
        let mut socket = self.open()?;
        let mut heard = Instant::now();
        loop {
            self.stalled();
            match socket.read() {
                Ok(Message::Text(text)) => {
                    heard = Instant::now();
                    self.hear(&mut socket, serde_json::from_str(&text).expect("frames are JSON"))?;
                }
                Ok(_) => heard = Instant::now(),
                Err(tungstenite::Error::Io(e))
                    if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
                {
                    if heard.elapsed() > SILENCE_MAX || Arc::strong_count(&self.stall) == 1 {
                        return Err(Over);
                    }
                }
                Err(_) => return Err(Over),
            }
        }
    }

    fn open(&self) -> Result<WebSocket<TcpStream>, Over> {
        let stream = self.runtime.block_on(async {
            let socket = TcpSocket::new_v4()?;
            socket.set_recv_buffer_size(BUFFER)?;
            socket.connect(self.server).await?.into_std()
        });
        let stream: TcpStream = stream.map_err(|_| Over)?;
        stream.set_nonblocking(false).map_err(|_| Over)?;
        stream.set_read_timeout(Some(SILENCE_MAX)).map_err(|_| Over)?;
        let (socket, _) =
            tungstenite::client(format!("ws://{}/ws", self.server), stream).map_err(|_| Over)?;
        socket.get_ref().set_read_timeout(Some(LOOK_EVERY)).map_err(|_| Over)?;
        Ok(socket)
    }

    fn stalled(&self) {
        let until = *self.stall.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(left) = until.and_then(|until| until.checked_duration_since(Instant::now())) {
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }

    fn hear(&mut self, socket: &mut WebSocket<TcpStream>, frame: Value) -> Result<(), Over> {
        let ask = match frame["type"].as_str().expect("frames have a type") {
            "hello" => match &self.pid {
                Some(pid) => json!({"type": "resume", "pid": pid, "cursor": self.cursor}),
                None => {
                    self.pid = frame["pid"].as_str().map(str::to_owned);
                    register(self.index)
                }
            },
            "error" if frame["code"] == "unavailable" => return Err(Over),
            "error" => {
                eprintln!("client {}: {frame}", self.index);
                self.pid = None;
                return Err(Over);
            }
            "registered" | "resumed" => {
                let resumed = frame["type"] == "resumed";
                self.world.account().connected(self.index, resumed);
                if let Some(registered) = self.registered.take() {
                    let _ = registered.send(());
                }
                return Ok(());
            }
            "gap" => {
                self.world.account().gap(self.index);
                return Ok(());
            }
            "message" => {
                if let Some(cursor) = frame["cursor"].as_str() {
                    self.cursor = Some(cursor.to_owned());
                }
                got(&self.world, self.index, &frame);
                return Ok(());
            }
            _ => return Ok(()),
        };
        socket.send(Message::text(ask.to_string())).map_err(|_| Over)
    }
}

fn register(index: usize) -> Value {
    let mut register = load::registration(index);
    register["type"] = json!("register");
    register
}

fn got(world: &World, client: usize, event: &Value) {
    let message = &event["message"];
    let number = message["data"]["n"].as_u64().expect("messages of these runs are numbered");
    let channel = load::channel(message);
    let position = event["cursor"].as_str().map(|cursor| load::position(cursor, channel.as_deref()));
    world.account().got(client, number, (channel.as_deref(), position), world.now());
}

impl Official {
    /// Returns when it is registered.
    pub(super) async fn start(node: &Driver, index: usize, url: &str, world: Arc<World>) -> Self {
        let transports = [json!(["websocket"]), json!(["polling"]), json!(["polling", "websocket"])];
        let options = json!({
            "transports": transports[index % transports.len()],
            "reconnectionDelay": 50,
            "reconnectionDelayMax": 400,
            "timeout": 6_000,
        });
        let client = node.registered(&format!("c{index}"), url, options, load::registration(index)).await;
        world.account().connected(index, false);
        Self { reading: tokio::spawn(read(client, index, world)) }
    }
}

impl Drop for Official {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

async fn read(mut client: SocketClient, index: usize, world: Arc<World>) {
    let mut looks = interval(LOOK_EVERY);
    loop {
        looks.tick().await;
        for event in client.inbox.everything() {
            match event["event"].as_str() {
                Some("message") => got(&world, index, &event),
                Some("gap") => world.account().gap(index),
                Some("connect") => world.account().connected(index, event["recovered"] == true),
                _ => {}
            }
        }
    }
}
