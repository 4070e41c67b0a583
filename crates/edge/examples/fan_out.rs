//! What a fan-out costs inside one edge, from its feed to its sockets, next to a bare writer that has the same frames ready
//! and writes as many of them at once. Prints a table of frames per second of CPU: both sides write to the same readers
//! in turn, so the ratio holds on a busy machine too.
//!
//! `cargo run --release -p herald-edge --example fan_out -- [clients] [seconds a row]`
//!
//! The edge runs on one worker thread, on a bus in memory; readers and the bare writer each have a thread of their own in
//! the same process. So clients are at most a fifth of the open files that a process may have.

#![allow(clippy::print_stdout)] // a table is what it is for

use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser as _;
use herald_bus::{Bus, LogConfig, Publication};
use herald_chassis::Context;
use herald_edge::{ClientConfig, Parts};
use herald_wire::{Envelope, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

#[global_allocator]
static ALLOCATOR: herald_chassis::MiMalloc = herald_chassis::MiMalloc;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const BODY_BYTES: usize = 200;
/// Time for what is on its way to arrive, before a row.
const SETTLE: Duration = Duration::from_millis(500);
/// Looks at whether every client is there.
const TRIES_MAX: usize = 20;
/// Between looks at whether a round has arrived.
const PAUSE: Duration = Duration::from_micros(200);

#[derive(clap::Parser)]
struct Arguments {
    /// Clients that read.
    #[arg(default_value_t = 1_000)]
    clients: usize,
    /// How long each row is measured, in seconds.
    #[arg(default_value_t = 2.0)]
    seconds: f64,
    /// Settings of the edge, where its defaults will not do.
    #[command(flatten)]
    edge: ClientConfig,
}

fn main() -> Result<(), Failure> {
    let Arguments { clients, seconds, edge } = Arguments::parse();
    let row_time = Duration::from_secs_f64(seconds);
    let (readers, writers) = (thread("readers")?, thread("writer")?);
    println!("{clients} clients, {BODY_BYTES} bytes of data\n");
    println!(
        "| channels | class | frames at once | edge, frames/CPU s | bare writer, frames/CPU s | edge/bare |"
    );
    println!("|---|---|---|---|---|---|");
    for channels in [1, clients.div_ceil(500), clients.div_ceil(100)] {
        for reliable in [false, true] {
            let rig = writers.block_on(Rig::start(&readers, edge.clone(), (clients, channels, reliable)))?;
            for at_once in [1, 8, 32] {
                let edge = rig.measure("writer", row_time, || writers.block_on(rig.publish(at_once)))?;
                let bare = rig.measure("fan_out", row_time, || writers.block_on(rig.write(at_once)))?;
                let class = if reliable { "reliable" } else { "volatile" };
                println!("| {channels} | {class} | {at_once} | {edge:.0} | {bare:.0} | {:.2} |", edge / bare);
            }
            rig.ctx.shutdown.force();
        }
    }
    Ok(())
}

/// One thread, named so that its CPU time can be told apart.
fn thread(name: &str) -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build()
}

/// CPU time of the threads of that name.
fn cpu_time(name: &str) -> Result<Duration, Failure> {
    let mut total = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        if std::fs::read_to_string(task.join("comm"))?.trim() == name {
            let nanos = std::fs::read_to_string(task.join("schedstat"))?;
            total += nanos.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(total))
}

/// An edge with clients, and a bare writer with as many.
struct Rig {
    ctx: Context,
    bus: Bus,
    channels: Vec<Target>,
    reliable: bool,
    clients: usize,
    /// Bytes that arrived.
    arrived: Arc<AtomicU64>,
    frame: Bytes,
    bare: Vec<TcpStream>,
}

impl Rig {
    async fn start(
        readers: &Runtime,
        edge: ClientConfig,
        (clients, channels, reliable): (usize, usize, bool),
    ) -> Result<Self, Failure> {
        let ctx = Context::new();
        let bus = Bus::memory(LogConfig { entries_max: 100, ..LogConfig::default() });
        // as the edge's own, it holds all clients while they wait to be accepted: one that holds fewer resets the others
        let listener = herald_chassis::listen("edge", "127.0.0.1:0".parse()?)?;
        let address = listener.local_addr()?;
        let parts = Parts {
            clients: edge,
            registry_url: None,
            advertise: None,
            bus: bus.clone(),
            listener,
            elsewhere: None,
        };
        herald_edge::start(parts, &ctx)?;
        let arrived = Arc::new(AtomicU64::new(0));
        let names: Vec<String> = (0..channels).map(|n| format!("g{n}")).collect();
        for client in 0..clients {
            let group = names[client % channels].clone();
            let arrived = arrived.clone();
            readers.spawn(async move { read_edge(address, &group, arrived).await });
        }
        let bare = bare(readers, clients, &arrived).await?;
        let channels = names.iter().map(|name| Target::group(name, 64)).collect::<Result<_, _>>()?;
        let mut rig = Self { ctx, bus, channels, reliable, clients, arrived, frame: Bytes::new(), bare };
        rig.learn().await?;
        Ok(rig)
    }

    /// How long a frame is, once every client is there to get one.
    async fn learn(&mut self) -> Result<(), Failure> {
        for _ in 0..TRIES_MAX {
            tokio::time::sleep(SETTLE).await;
            let before = self.arrived.load(Ordering::Relaxed);
            self.publish(1).await?;
            tokio::time::sleep(SETTLE).await;
            let bytes = self.arrived.load(Ordering::Relaxed) - before;
            let length = bytes / self.clients as u64;
            if length > BODY_BYTES as u64 && bytes.is_multiple_of(self.clients as u64) {
                self.frame = Bytes::from(vec![b'x'; length as usize]);
                return Ok(());
            }
        }
        Err(format!("not every one of {} clients gets what is published: try fewer", self.clients).into())
    }

    /// So many messages for every client, by the edge. Returns how many frames that makes.
    async fn publish(&self, at_once: usize) -> Result<usize, Failure> {
        let body = format!(r#"{{"socketGroupFlag":"g","data":"{:0>BODY_BYTES$}"}}"#, 7);
        let envelope =
            Envelope { body: body.into(), reliable: self.reliable, ..Envelope::default() }.to_bytes();
        let publication = |target: &Target| Publication {
            target: target.clone(),
            envelope: envelope.clone(),
            reliable: self.reliable,
            message_id: None,
        };
        let each: Vec<_> = self.channels.iter().map(publication).collect();
        for _ in 0..at_once {
            for answer in self.bus.publish(&each).await {
                answer?;
            }
        }
        Ok(self.clients * at_once)
    }

    /// So many frames to every client of the bare writer.
    async fn write(&self, at_once: usize) -> Result<usize, Failure> {
        let slices = vec![IoSlice::new(&self.frame); at_once];
        for stream in &self.bare {
            while stream.try_write_vectored(&slices).is_err() {
                stream.writable().await?;
            }
        }
        Ok(self.bare.len() * at_once)
    }

    /// Frames per second of CPU of the thread of this name, one round after the other, each when the one before has
    /// arrived.
    fn measure(
        &self,
        thread: &str,
        time: Duration,
        round: impl Fn() -> Result<usize, Failure>,
    ) -> Result<f64, Failure> {
        let (started, cpu) = (Instant::now(), cpu_time(thread)?);
        let mut frames = 0;
        while started.elapsed() < time {
            let before = self.arrived.load(Ordering::Relaxed);
            let sent = round()?;
            frames += sent;
            let due = before + (sent * self.frame.len()) as u64;
            while self.arrived.load(Ordering::Relaxed) < due {
                std::thread::sleep(PAUSE);
            }
        }
        Ok(frames as f64 / (cpu_time(thread)? - cpu).as_secs_f64())
    }
}

/// Registers for a group, and counts what comes.
async fn read_edge(edge: SocketAddr, group: &str, arrived: Arc<AtomicU64>) -> Result<(), Failure> {
    let mut stream = TcpStream::connect(edge).await?;
    let upgrade = "GET /ws HTTP/1.1\r\nhost: edge\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).await?;
    let register = format!(r#"{{"type":"register","groupFlag":"{group}"}}"#);
    // a client's frame is masked (RFC 6455 section 5.3); a mask of zeros leaves the text as it is
    let mut frame = vec![0x81, 0x80 | register.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(register.as_bytes());
    stream.write_all(&frame).await?;
    let mut heard = Vec::new();
    while !heard.windows(12).any(|part| part == b"\"registered\"") {
        if stream.read_buf(&mut heard).await? == 0 {
            return Err("the edge ended a connection".into());
        }
    }
    count(stream, arrived).await
}

async fn count(stream: TcpStream, arrived: Arc<AtomicU64>) -> Result<(), Failure> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(bytes) => drop(arrived.fetch_add(bytes as u64, Ordering::Relaxed)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Connections to nothing but readers.
async fn bare(
    readers: &Runtime,
    clients: usize,
    arrived: &Arc<AtomicU64>,
) -> Result<Vec<TcpStream>, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut streams = Vec::with_capacity(clients);
    for _ in 0..clients {
        let arrived = arrived.clone();
        readers.spawn(async move { count(TcpStream::connect(address).await?, arrived).await });
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    Ok(streams)
}
