//! A small TCP load balancer in the test's own process, and a network that can be cut.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Hands each connection to the first upstream that accepts one. Ends with its test's runtime.
#[derive(Debug)]
pub struct Balancer {
    /// Where clients connect.
    pub listen: SocketAddr,
    upstreams: Arc<Mutex<Vec<SocketAddr>>>,
    /// Counts cuts: whoever began before the last one ends.
    cuts: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

impl Balancer {
    /// Listens on a port of its own.
    pub async fn start(upstreams: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let listen = listener.local_addr().expect("an address");
        let upstreams = Arc::new(Mutex::new(upstreams.to_vec()));
        let (cuts, _) = watch::channel(0);
        let accepting = tokio::spawn(accept(listener, upstreams.clone(), cuts.clone()));
        Self { listen, upstreams, cuts, accepting }
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
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, upstreams: Arc<Mutex<Vec<SocketAddr>>>, cuts: watch::Sender<u64>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let upstreams = lock(&upstreams).clone();
        let mut cuts = cuts.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                _ = cuts.changed() => {}
                () = carry(client, upstreams) => {}
            }
        });
    }
}

async fn carry(mut client: TcpStream, upstreams: Vec<SocketAddr>) {
    for upstream in upstreams {
        let Ok(mut server) = TcpStream::connect(upstream).await else { continue };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let _ = copy_bidirectional(&mut client, &mut server).await;
        return;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
