//! A small TCP load balancer in the test's own process, and a network that can be cut.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{Interest, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long the server's end of a vanished client's connection is kept.
const HALF_OPEN_MAX: Duration = Duration::from_secs(30);

/// Hands each connection to the first upstream that accepts one. Ends with its test's runtime.
#[derive(Debug)]
pub struct Balancer {
    /// Where clients connect.
    pub listen: SocketAddr,
    upstreams: Arc<Mutex<Vec<SocketAddr>>>,
    /// Counts cuts: whoever began before the last one ends.
    cuts: watch::Sender<u64>,
    /// Counts the times at which clients vanished.
    vanishings: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

impl Balancer {
    /// Listens on a port of its own.
    pub async fn start(upstreams: &[SocketAddr]) -> Self {
        Self::narrow(upstreams, None)
    }

    /// The same with socket buffers of so many bytes, so that a client which does not read is soon felt at the edge.
    pub fn narrow(upstreams: &[SocketAddr], buffers: Option<u32>) -> Self {
        let socket = socket(buffers);
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
        let listener = socket.listen(1_024).expect("a port");
        let listen = listener.local_addr().expect("an address");
        let upstreams = Arc::new(Mutex::new(upstreams.to_vec()));
        let ((cuts, _), (vanishings, _)) = (watch::channel(0), watch::channel(0));
        let ends = (cuts.clone(), vanishings.clone());
        let accepting = tokio::spawn(accept(listener, (upstreams.clone(), buffers), ends));
        Self { listen, upstreams, cuts, vanishings, accepting }
    }

    /// Where clients connect, as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Upstreams for connections from now on; none refuses them all. Those that are open stay.
    pub fn point_at(&self, upstreams: &[SocketAddr]) {
        *lock(&self.upstreams) = upstreams.to_vec();
    }

    /// Cuts every open connection without a word.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Clients' ends of all open connections are gone; servers see connections that take nothing and say nothing.
    pub fn vanish(&self) {
        self.vanishings.send_modify(|vanishings| *vanishings += 1);
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

type Counts = watch::Sender<u64>;
type Upstreams = Arc<Mutex<Vec<SocketAddr>>>;

async fn accept(
    listener: TcpListener,
    (upstreams, buffers): (Upstreams, Option<u32>),
    (cuts, vanishings): (Counts, Counts),
) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let upstreams = lock(&upstreams).clone();
        let (mut cuts, vanishings) = (cuts.subscribe(), vanishings.subscribe());
        tokio::spawn(async move {
            tokio::select! {
                _ = cuts.changed() => {}
                () = carry(client, (upstreams, buffers), vanishings) => {}
            }
        });
    }
}

async fn carry(
    mut client: TcpStream,
    (upstreams, buffers): (Vec<SocketAddr>, Option<u32>),
    mut vanishings: watch::Receiver<u64>,
) {
    for upstream in upstreams {
        let Ok(mut server) = socket(buffers).connect(upstream).await else { continue };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut server) => {}
            _ = vanishings.changed() => {
                drop(client);
                // held, not read, until the server gives it up
                let _ = timeout(HALF_OPEN_MAX, server.ready(Interest::ERROR)).await;
            }
        }
        return;
    }
}

fn socket(buffers: Option<u32>) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    if let Some(bytes) = buffers {
        socket.set_send_buffer_size(bytes).expect("a smaller buffer");
        socket.set_recv_buffer_size(bytes).expect("a smaller buffer");
    }
    socket
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
