//! What the kernel allows on this machine: one thread that writes frames made beforehand to many sockets, several frames a
//! write. The ceiling that an edge's fan-out is compared with. Knows no message, no Redis, no Socket.IO. Prints one line
//! of JSON.
//!
//! `cargo run --release -p herald-loadtest --example bare_writer -- --clients 3000 --frames-per-write 8`
//!
//! It starts itself a second time (`--count`) as the process that reads and counts, so that the writer's CPU time is its
//! own. The handshake is as short as it can be: no key is checked on either side.

#![allow(clippy::print_stdout)] // a line is what it is for

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const LISTENER: Token = Token(usize::MAX);
const HEAD_END: &[u8] = b"\r\n\r\n";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bare\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
const RESPONSE: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const READ_BYTES: usize = 64 * 1024;
/// Both sides' buffers fill before the reader begins to count: from then on what is written is what is read.
const WARM_UP: Duration = Duration::from_secs(1);
/// Sockets written before the loop looks for those that became writable.
const SLICE: usize = 256;

/// A server that only writes
#[derive(Clone, Debug, Parser)]
struct Settings {
    /// Connections
    #[arg(long, default_value = "3000")]
    clients: usize,
    /// Frames that leave in one write
    #[arg(long, default_value = "8")]
    frames_per_write: usize,
    /// Payload of a frame in bytes
    #[arg(long, default_value = "260")]
    bytes: usize,
    /// How long it writes
    #[arg(long, default_value = "10")]
    seconds: u64,
    /// Be the reader of the server at this address
    #[arg(long)]
    count: Option<SocketAddr>,
}

fn main() -> Result<(), Failure> {
    let settings = Settings::parse();
    match settings.count {
        Some(server) => count(server, &settings),
        None => serve(&settings),
    }
}

impl Settings {
    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

fn serve(settings: &Settings) -> Result<(), Failure> {
    let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = listener.local_addr()?;
    let mut reader = Command::new(std::env::current_exe()?)
        .args(["--count", &address.to_string(), "--clients", &settings.clients.to_string()])
        .args(["--seconds", &settings.seconds.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut poll = Poll::new()?;
    let mut writers = accept(&mut poll, &mut listener, settings.clients)?;

    let chunk = frame(settings.bytes).repeat(settings.frames_per_write);
    let cpu_before = cpu_seconds()?;
    let written = write(&mut poll, &mut writers, &chunk, Instant::now() + WARM_UP * 2 + settings.time())?;
    let cpu = cpu_seconds()? - cpu_before;
    let mut frames_per_s = String::new();
    BufReader::new(reader.stdout.take().ok_or("the reader has no output")?).read_line(&mut frames_per_s)?;
    reader.kill()?;
    reader.wait()?;
    let frames_per_s: f64 = frames_per_s.trim().parse()?;
    let frames = written as f64 / (chunk.len() / settings.frames_per_write) as f64;
    println!(
        "{}",
        serde_json::json!({
            "clients": settings.clients,
            "frames_per_write": settings.frames_per_write,
            "bytes": settings.bytes,
            "frames_per_s": frames_per_s.round(),
            "frames_per_cpu_s": (frames / cpu).round(),
        })
    );
    Ok(())
}

/// One text frame of a server.
fn frame(bytes: usize) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u16::try_from(bytes) {
        Ok(short @ 0..=125) => frame.push(short as u8),
        Ok(length) => {
            frame.push(126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => {
            frame.push(127);
            frame.extend_from_slice(&(bytes as u64).to_be_bytes());
        }
    }
    frame.resize(frame.len() + bytes, b'x');
    frame
}

/// A connection and how much of the chunk it still has to get.
struct Writer {
    socket: TcpStream,
    written: usize,
    is_blocked: bool,
}

/// Waits for all clients and answers their handshakes.
fn accept(poll: &mut Poll, listener: &mut TcpListener, clients: usize) -> Result<Vec<Writer>, Failure> {
    poll.registry().register(listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut writers = Vec::with_capacity(clients);
    let mut answered = 0;
    let mut head = [0; 1024];
    while answered < clients {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() != LISTENER {
                let writer: &mut Writer = &mut writers[event.token().0];
                // a request this short arrives whole, or this is not our reader
                match writer.socket.read(&mut head) {
                    Ok(length) if head[..length].ends_with(HEAD_END) => {
                        writer.socket.write_all(RESPONSE)?;
                        answered += 1;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Ok(_) => return Err("a client sent something else than a handshake".into()),
                    Err(error) => return Err(error.into()),
                }
                continue;
            }
            loop {
                let mut socket = match listener.accept() {
                    Ok((socket, _)) => socket,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                };
                socket.set_nodelay(true)?;
                let both = Interest::READABLE | Interest::WRITABLE;
                poll.registry().register(&mut socket, Token(writers.len()), both)?;
                writers.push(Writer { socket, written: 0, is_blocked: false });
            }
        }
    }
    Ok(writers)
}

/// Writes the chunk to everyone in turn until a time; who blocks is left out until epoll says otherwise. Returns how
/// many bytes.
fn write(poll: &mut Poll, writers: &mut [Writer], chunk: &[u8], until: Instant) -> io::Result<u64> {
    let mut events = Events::with_capacity(1024);
    let mut bytes = 0;
    while Instant::now() < until {
        let mut is_idle = true;
        for slice in 0..writers.len().div_ceil(SLICE) {
            let end = writers.len().min((slice + 1) * SLICE);
            for writer in &mut writers[slice * SLICE..end] {
                if writer.is_blocked {
                    continue;
                }
                is_idle = false;
                match writer.socket.write(&chunk[writer.written..]) {
                    Ok(length) => {
                        writer.written = (writer.written + length) % chunk.len();
                        bytes += length as u64;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => writer.is_blocked = true,
                    Err(error) => return Err(error),
                }
            }
            poll.poll(&mut events, Some(Duration::ZERO))?;
            unblock(&events, writers);
        }
        if is_idle {
            poll.poll(&mut events, Some(Duration::from_millis(10)))?;
            unblock(&events, writers);
        }
    }
    Ok(bytes)
}

fn unblock(events: &Events, writers: &mut [Writer]) {
    for event in events {
        if let Some(writer) = writers.get_mut(event.token().0) {
            writer.is_blocked &= !event.is_writable();
        }
    }
}

/// User and system time of this process.
fn cpu_seconds() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(')').ok_or("no stat")?.1.split_whitespace();
    let ticks = fields.skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// A connection being read: where in a frame it is.
struct Reader {
    socket: TcpStream,
    is_open: bool,
    header: Vec<u8>,
    left: usize,
}

/// The other process: connects, reads, and prints how many whole frames came in a second, when it has counted for as long
/// as it should. It reads on until it is killed, so that the writer never waits for it.
fn count(server: SocketAddr, settings: &Settings) -> Result<(), Failure> {
    let mut poll = Poll::new()?;
    let mut readers = Vec::with_capacity(settings.clients);
    for number in 0..settings.clients {
        // connected and asked one after another, so that the server's queue of connections is never full
        let mut socket = std::net::TcpStream::connect(server)?;
        socket.write_all(REQUEST)?;
        socket.set_nonblocking(true)?;
        let mut socket = TcpStream::from_std(socket);
        poll.registry().register(&mut socket, Token(number), Interest::READABLE)?;
        readers.push(Reader { socket, is_open: false, header: Vec::new(), left: 0 });
    }
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; READ_BYTES];
    let mut frames = 0_u64;
    let mut window: Option<(Instant, u64)> = None;
    let mut is_told = false;
    let connected = Instant::now();
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            let reader = &mut readers[event.token().0];
            loop {
                match reader.socket.read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(length) => frames += reader.frames(&buffer[..length])?,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        match window {
            None if connected.elapsed() > WARM_UP => window = Some((Instant::now(), frames)),
            Some((since, before)) if !is_told && since.elapsed() > settings.time() => {
                is_told = true;
                println!("{}", (frames - before) as f64 / since.elapsed().as_secs_f64());
            }
            _ => {}
        }
    }
}

impl Reader {
    /// How many frames end in these bytes.
    fn frames(&mut self, mut bytes: &[u8]) -> Result<u64, Failure> {
        let mut frames = 0;
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(bytes.len());
                bytes = &bytes[taken..];
                self.left -= taken;
                frames += u64::from(self.left == 0);
                continue;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            if !self.is_open {
                if self.header.ends_with(HEAD_END) {
                    self.is_open = true;
                    self.header.clear();
                }
            } else if let Some(length) = length(&self.header) {
                self.left = length;
                self.header.clear();
            }
        }
        Ok(frames)
    }
}

/// The payload's length, once the header is whole.
fn length(header: &[u8]) -> Option<usize> {
    let short = usize::from(*header.get(1)? & 0x7f);
    let long = match short {
        126 => header.get(2..4)?,
        127 => header.get(2..10)?,
        _ => return Some(short),
    };
    Some(long.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
}
