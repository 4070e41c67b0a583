//! What an edge spends on each delivery of a fan-out, from its bus to its sockets, in instructions. `bench/instructions`
//!
//! Edge and clients are one thread. Its clock is stopped while it is measured, so that nothing that goes by time, such as
//! a ping, is counted into it. What the kernel does is not counted either.

#![allow(missing_docs, unused_qualifications)] // of what the macros make
#![allow(clippy::expect_used)] // what cannot be set up cannot be measured

use clap::Parser as _;
use gungraun::prelude::*;
use herald_bus::{Bus, LogConfig, Publication};
use herald_chassis::Context;
use herald_edge::{ClientConfig, Parts};
use herald_wire::{Envelope, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const GROUP: &str = "news";
const BODY_BYTES: usize = 200;
/// The runtime's turns that a message may take to reach the outboxes; from then on it is a turn for every 64 of them.
const TURNS: usize = 16;

#[library_benchmark(teardown = check)]
#[bench::volatile_x100(Rig::new(100, false, 1))]
#[bench::volatile_x1000(Rig::new(1_000, false, 1))]
#[bench::reliable_x1000(Rig::new(1_000, true, 1))]
#[bench::reliable_eight_at_once_x8000(Rig::new(1_000, true, 8))]
fn fan_out(rig: Rig) -> Rig {
    rig.runtime.block_on(rig.publish());
    rig
}

library_benchmark_group!(name = edge, benchmarks = fan_out);
main!(library_benchmark_groups = edge);

#[derive(clap::Parser)]
struct Settings {
    #[command(flatten)]
    edge: ClientConfig,
}

/// An edge on a bus in memory, and clients that are registered for one group.
struct Rig {
    ctx: Context,
    bus: Bus,
    publications: Vec<Publication>,
    clients: Vec<TcpStream>,
    runtime: Runtime,
}

impl Rig {
    fn new(clients: usize, reliable: bool, at_once: usize) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (ctx, bus) = (Context::new(), Bus::memory(LogConfig::default()));
        let clients = runtime.block_on(connect(&ctx, &bus, clients)).expect("clients that are registered");
        let publication = publication(reliable).expect("a group");
        let rig = Self { ctx, bus, publications: vec![publication; at_once], clients, runtime };
        rig.runtime.block_on(async { tokio::time::pause() });
        // the first round has what it needs allocated
        rig.runtime.block_on(rig.publish());
        rig.arrived();
        rig
    }

    /// Publishes, and lets the edge write.
    async fn publish(&self) {
        for answer in self.bus.publish(&self.publications).await {
            answer.expect("a bus in memory takes everything");
        }
        for _ in 0..TURNS + self.clients.len() / 64 {
            tokio::task::yield_now().await;
        }
    }

    /// Takes what has arrived; each client must have got every message once.
    fn arrived(&self) {
        let mut buffer = vec![0; 64 * 1024];
        for client in &self.clients {
            let mut messages = 0;
            while let Ok(1..) =
                client.try_read(&mut buffer).inspect(|&bytes| messages += count(&buffer[..bytes]))
            {
            }
            assert_eq!(messages, self.publications.len(), "of what was published");
        }
    }
}

#[allow(clippy::needless_pass_by_value)] // which is how it is called
fn check(rig: Rig) {
    rig.arrived();
    rig.ctx.shutdown.force();
}

/// Messages in what one read brought, which has whole ones.
fn count(read: &[u8]) -> usize {
    read.windows(8).filter(|part| part == b"\"data\":\"").count()
}

fn publication(reliable: bool) -> Result<Publication, Failure> {
    let body = format!(r#"{{"socketGroupFlag":"{GROUP}","data":"{:0>BODY_BYTES$}"}}"#, 7);
    let envelope = Envelope { body: body.into(), reliable, ..Envelope::default() }.to_bytes();
    Ok(Publication { target: Target::group(GROUP, 64)?, envelope, reliable, message_id: None })
}

async fn connect(ctx: &Context, bus: &Bus, clients: usize) -> Result<Vec<TcpStream>, Failure> {
    let Settings { edge } = Settings::try_parse_from(["", "--shards=1"])?;
    let listener = herald_chassis::listen("edge", "127.0.0.1:0".parse()?)?;
    let address = listener.local_addr()?;
    let (bus, registry_url, advertise, elsewhere) = (bus.clone(), None, None, None);
    herald_edge::start(Parts { clients: edge, registry_url, advertise, bus, listener, elsewhere }, ctx)?;
    let mut streams = Vec::with_capacity(clients);
    for _ in 0..clients {
        let mut stream = TcpStream::connect(address).await?;
        register(&mut stream).await?;
        streams.push(stream);
    }
    Ok(streams)
}

async fn register(stream: &mut TcpStream) -> Result<(), Failure> {
    let upgrade = "GET /ws HTTP/1.1\r\nhost: edge\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let register = format!(r#"{{"type":"register","groupFlag":"{GROUP}"}}"#);
    // a client's frame is masked (RFC 6455 section 5.3); a mask of zeros leaves the text as it is
    let mut request = upgrade.as_bytes().to_vec();
    request.extend_from_slice(&[0x81, 0x80 | register.len() as u8, 0, 0, 0, 0]);
    request.extend_from_slice(register.as_bytes());
    stream.write_all(&request).await?;
    let mut heard = Vec::new();
    while !heard.windows(12).any(|part| part == b"\"registered\"") {
        if stream.read_buf(&mut heard).await? == 0 {
            return Err("the edge ended a connection".into());
        }
    }
    Ok(())
}
