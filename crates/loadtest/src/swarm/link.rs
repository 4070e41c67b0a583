//! One client's socket: what was read of an unfinished frame, and what could not be written yet.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};

use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use crate::client::{Around, Client, Ended};

/// Reads in a row from one socket before the others have their turn.
const READS_MAX: usize = 16;
/// The receive buffer of a client that will stop reading: small, so that its edge notices soon.
const STALLED_RECEIVE_BYTES: usize = 4096;

#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: TcpStream,
    is_connected: bool,
    carry: Vec<u8>,
    unwritten: Vec<u8>,
}

/// What became of a link that was attended to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Attended {
    /// Nothing more for now.
    Idle,
    /// There is more to read, after the others.
    More,
    /// It is over.
    Ended(Ended),
}

impl Link {
    /// Begins to connect, from one of this machine's addresses if said.
    pub(super) fn dial(edge: SocketAddr, from: Option<IpAddr>, is_stalled: bool) -> std::io::Result<Self> {
        let socket = Socket::new(Domain::for_address(edge), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if is_stalled {
            socket.set_recv_buffer_size(STALLED_RECEIVE_BYTES)?;
        }
        if let Some(from) = from {
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        match socket.connect(&edge.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        Ok(Self {
            stream: TcpStream::from_std(socket.into()),
            is_connected: false,
            carry: Vec::new(),
            unwritten: Vec::new(),
        })
    }

    /// The socket can be written to: finishes connecting, and whatever was left. `true` when it has just connected.
    pub(super) fn writable(&mut self) -> std::io::Result<bool> {
        if !self.is_connected {
            if let Some(error) = self.stream.take_error()? {
                return Err(error);
            }
            match self.stream.peer_addr() {
                Ok(_) => self.is_connected = true,
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
                Err(error) => return Err(error),
            }
            return Ok(true);
        }
        if !self.unwritten.is_empty() {
            let bytes = std::mem::take(&mut self.unwritten);
            self.write(&bytes)?;
        }
        Ok(false)
    }

    /// Writes, and keeps what the socket does not take.
    pub(super) fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let mut rest = bytes;
        while self.unwritten.is_empty() && !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.unwritten.extend_from_slice(rest);
        Ok(())
    }

    /// Reads what is there into the thread's buffer and has the client heed it. The part of a frame that is left goes in
    /// front of the next read. `is_closing`: the end is to be read too, however little comes before it.
    pub(super) fn readable(
        &mut self,
        (buffer, is_closing): (&mut [u8], bool),
        client: &mut Client,
        around: &mut Around<'_>,
    ) -> Attended {
        for _ in 0..READS_MAX {
            let begun = self.carry.len();
            let Some((kept, free)) = buffer.split_at_mut_checked(begun).filter(|(_, free)| !free.is_empty())
            else {
                return Attended::Ended(Ended::Answer("a frame larger than the read buffer".into()));
            };
            let count = match self.stream.read(free) {
                Ok(0) => return Attended::Ended(Ended::Closed),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Attended::Idle,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Attended::Ended(Ended::Answer(error.to_string())),
            };
            let is_drained = count < free.len() && !is_closing;
            kept.copy_from_slice(&self.carry);
            around.now_us = crate::clock::now_us();
            let read = &buffer[..begun + count];
            match client.heed(read, around) {
                Ok(taken) => self.keep(&read[taken..]),
                Err(ended) => return Attended::Ended(ended),
            }
            if is_drained {
                // less than was asked for: the socket is empty, and says so when it no longer is
                return Attended::Idle;
            }
        }
        Attended::More
    }

    fn keep(&mut self, rest: &[u8]) {
        self.carry.clear();
        if rest.is_empty() && self.carry.capacity() > 0 {
            self.carry = Vec::new();
        } else {
            self.carry.extend_from_slice(rest);
        }
    }
}
