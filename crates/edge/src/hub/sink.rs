//! Where a connection's frames go: straight into its socket, or to the HTTP response that pulls them.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use herald_socketio::engine::POLL_PACKETS_MAX;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::outbox::{Outbox, Written};

/// Slices in one vectored write; Linux takes up to 1,024, a few dozen reach the size of a socket buffer anyway.
const SLICES_MAX: usize = 64;
/// Bytes handed at once to a response that pulls.
const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Cloning is a reference count.
#[derive(Clone, Debug)]
pub(crate) enum Sink {
    /// Non-blocking writes to a WebSocket's stream.
    Socket(Arc<TcpStream>),
    /// Chunks of whole frames for a long poll or an event stream.
    Pull(mpsc::Sender<Vec<Bytes>>),
}

/// How far a flush got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    Empty,
    /// The sink takes no more for now: wait with [`Sink::ready`].
    Blocked,
    /// The socket failed.
    Failed,
    /// The response is gone. The connection's owner knows: it moves to another sink, or ends.
    Gone,
}

impl Sink {
    /// Writes as much of the outbox as the sink takes at once.
    pub(crate) fn flush(&self, outbox: &mut Outbox, written: &mut Written) -> Flushed {
        while !outbox.is_empty() {
            let step = match self {
                Self::Socket(stream) => write(stream, outbox),
                Self::Pull(chunks) => hand_over(chunks, outbox),
            };
            match step {
                Ok(step) => written.add(step),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Flushed::Blocked,
                Err(_) if matches!(self, Self::Pull(_)) => return Flushed::Gone,
                Err(_) => return Flushed::Failed,
            }
        }
        Flushed::Empty
    }

    /// Waits until a flush may get further, or will fail.
    pub(crate) async fn ready(&self) {
        match self {
            // an error shows at the next write
            Self::Socket(stream) => drop(stream.writable().await),
            Self::Pull(chunks) => drop(chunks.reserve().await),
        }
    }
}

fn write(stream: &TcpStream, outbox: &mut Outbox) -> io::Result<Written> {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let filled = outbox.slices(&mut slices);
    let written = stream.try_write_vectored(&slices[..filled])?;
    Ok(outbox.advance(written))
}

fn hand_over(chunks: &mpsc::Sender<Vec<Bytes>>, outbox: &mut Outbox) -> io::Result<Written> {
    let permit = chunks.try_reserve().map_err(|full| match full {
        mpsc::error::TrySendError::Full(()) => io::Error::from(io::ErrorKind::WouldBlock),
        mpsc::error::TrySendError::Closed(()) => io::Error::from(io::ErrorKind::BrokenPipe),
    })?;
    let (frames, written) = outbox.take(POLL_PACKETS_MAX, CHUNK_BYTES_MAX);
    permit.send(frames);
    Ok(written)
}
