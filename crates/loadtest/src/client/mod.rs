//! One client's conversation with an edge, and its accounts: bytes in, bytes out. Knows no socket and keeps no clock.

mod events;
mod plain;
mod socket_io;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use memchr::memmem;
use serde_json::{Value, json};

use crate::frame::{self, FrameError, Kind, Parsed};
use crate::ledger::{Account, Ledger};
use crate::mark::{Mark, MarkFinder};
use crate::plan::{Audience, Cast, Protocol, Round};
use crate::swarm::Settlement;
use crate::tally::Tally;

/// The longest HTTP head a client takes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The longest cursor: base64url of a position, a mailbox position and a checksum.
const CURSOR_BYTES_MAX: usize = 64;

/// A client: who it is, how far its conversation is, and what it was due.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its number in the cast.
    pub(crate) number: u32,
    stage: Stage,
    accounts: Vec<Entry>,
    pid: Option<Box<str>>,
    cursor: Option<String>,
    /// Whether this connection began by asking for the old session.
    is_resuming: bool,
    chunks: events::Chunks,
}

#[derive(Debug)]
struct Entry {
    stream: u8,
    target: u32,
    ledger: Ledger,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No connection, or nothing asked on it yet.
    Away,
    /// The HTTP answer is awaited.
    Head,
    /// Engine.IO's `open`, or the plain protocol's `hello`.
    Greeting,
    /// The answer to Socket.IO's CONNECT, or to `resume`.
    Session,
    /// The answer to `register`.
    Registering,
    Live,
}

/// What a conversation needs from around it.
pub(crate) struct Around<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) resume: bool,
    pub(crate) cast: &'a Cast,
    pub(crate) round: Option<&'a Round>,
    pub(crate) tally: &'a mut Tally,
    pub(crate) finder: &'a mut MarkFinder,
    /// What is to be sent.
    pub(crate) out: &'a mut Vec<u8>,
    /// The longest silence between pings, by what the server said when it was connected to.
    pub(crate) announced_us: &'a mut Option<u64>,
    pub(crate) now_us: u64,
}

/// Why a conversation ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ended {
    #[error("the server closed the connection")]
    Closed,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("not the answer of this protocol: {0}")]
    Answer(String),
    #[error("refused: {0}")]
    Refused(String),
}

impl Ended {
    fn answer(bytes: &[u8]) -> Self {
        Self::Answer(String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned())
    }

    fn refused(bytes: &[u8]) -> Self {
        Self::Refused(String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned())
    }
}

impl Client {
    /// A client that has no connection.
    pub(crate) fn new(number: u32) -> Self {
        Self {
            number,
            stage: Stage::Away,
            accounts: Vec::new(),
            pid: None,
            cursor: None,
            is_resuming: false,
            chunks: events::Chunks::default(),
        }
    }

    /// Whether it is registered.
    pub(crate) fn is_live(&self) -> bool {
        self.stage == Stage::Live
    }

    /// The books of a new round are opened; `is_due` is false for a client to whom nothing is.
    pub(crate) fn begin(&mut self, round: &Round, cast: &Cast, is_due: bool) {
        self.accounts.clear();
        if !is_due {
            return;
        }
        for (stream, of) in round.streams.iter().enumerate() {
            for target in cast.targets_of(self.number, of.audience) {
                let mut ledger = Ledger::default();
                if self.is_live() {
                    ledger.join(1);
                }
                self.accounts.push(Entry { stream: stream as u8, target, ledger });
            }
        }
        self.accounts.shrink_to_fit();
    }

    /// A connection is there: what to send first.
    pub(crate) fn open(&mut self, around: &mut Around<'_>, host: &str) {
        self.stage = Stage::Head;
        self.is_resuming = around.resume && (self.pid.is_some() || self.cursor.is_some());
        self.chunks = events::Chunks::default();
        let path = match around.protocol {
            Protocol::SocketIo => "/socket.io/?EIO=4&transport=websocket".to_owned(),
            Protocol::Plain => "/ws".to_owned(),
            Protocol::Events => events::path(self.number, around.cast),
        };
        let mut head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n");
        if around.protocol == Protocol::Events {
            head.push_str("Accept: text/event-stream\r\n");
            if let Some(cursor) = self.cursor.as_deref().filter(|_| self.is_resuming) {
                let _ = write!(head, "Last-Event-ID: {cursor}\r\n");
            }
        } else {
            head.push_str("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
            head.push_str("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
        }
        head.push_str("\r\n");
        around.out.extend_from_slice(head.as_bytes());
    }

    /// Takes what was read, and says how much of it was understood: the rest is a part of something.
    pub(crate) fn heed(&mut self, bytes: &[u8], around: &mut Around<'_>) -> Result<usize, Ended> {
        let mut taken = 0;
        if self.stage == Stage::Head {
            match self.head(bytes, around)? {
                0 => return Ok(0),
                head => taken = head,
            }
        }
        if around.protocol == Protocol::Events {
            return Ok(taken + self.heed_events(&bytes[taken..], around)?);
        }
        loop {
            match frame::parse(&bytes[taken..])? {
                Parsed::Partial => return Ok(taken),
                Parsed::Frame { kind, payload, taken: length } => {
                    self.frame(kind, payload, around)?;
                    taken += length;
                }
            }
        }
    }

    fn frame(&mut self, kind: Kind, payload: &[u8], around: &mut Around<'_>) -> Result<(), Ended> {
        match (kind, around.protocol) {
            (Kind::Text, Protocol::SocketIo) => self.heed_socket_io(payload, around),
            (Kind::Text, _) => self.heed_plain(payload, around),
            (Kind::Ping, _) => {
                frame::put_pong(around.out, payload);
                Ok(())
            }
            (Kind::Pong, _) => Ok(()),
            (Kind::Close, _) => Err(Ended::Closed),
            (Kind::Binary, _) => Err(Ended::answer(b"(binary)")),
        }
    }

    fn head(&mut self, bytes: &[u8], around: &mut Around<'_>) -> Result<usize, Ended> {
        let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
            return if bytes.len() > HEAD_BYTES_MAX { Err(Ended::answer(bytes)) } else { Ok(0) };
        };
        let head = &bytes[..end + 4];
        let (expected, next) = match around.protocol {
            Protocol::Events => (b"HTTP/1.1 200", Stage::Registering),
            _ => (b"HTTP/1.1 101", Stage::Greeting),
        };
        if !head.starts_with(expected) {
            return Err(Ended::refused(bytes));
        }
        if around.protocol == Protocol::Events {
            self.chunks.set_chunked(head)?;
        }
        self.stage = next;
        Ok(head.len())
    }

    /// The connection is gone. A client that will not resume is due nothing of what it has not seen.
    pub(crate) fn lost(&mut self, resume: Option<Protocol>, round: Option<&Round>) {
        self.stage = Stage::Away;
        let can_resume = match resume {
            None => false,
            // there is no `pid`: without a cursor there is nothing to come back to
            Some(Protocol::Events) => self.cursor.is_some(),
            Some(_) => self.pid.is_some(),
        };
        let streams = round.map_or(&[][..], |round| &round.streams);
        for entry in &mut self.accounts {
            let reliable = streams.get(usize::from(entry.stream)).is_some_and(|stream| stream.reliable);
            if !(reliable && can_resume) {
                entry.ledger.leave();
            }
        }
    }

    /// It leaves and will be somebody new.
    pub(crate) fn forget(&mut self) {
        self.pid = None;
        self.cursor = None;
    }

    /// It is registered, or back: what is scheduled from now on is due.
    fn live(&mut self, around: &mut Around<'_>) {
        self.stage = Stage::Live;
        around.tally.events.registered += 1;
        let Some(round) = around.round else { return };
        for entry in &mut self.accounts {
            if let Some(stream) = round.streams.get(usize::from(entry.stream))
                && !entry.ledger.is_open()
            {
                entry.ledger.join(stream.schedule.first_after(entry.target, around.now_us));
            }
        }
    }

    fn resumed(&mut self, around: &mut Around<'_>) {
        around.tally.events.resumed += 1;
        self.live(around);
    }

    /// What `register` says.
    fn registration(&self, cast: &Cast) -> Value {
        let groups = cast.targets_of(self.number, Audience::Group);
        let groups: Vec<String> = groups.into_iter().map(|group| cast.name(Audience::Group, group)).collect();
        json!({"socketId": cast.name(Audience::Client, self.number), "groupFlag": groups})
    }

    /// A message of any protocol. `true` when its cursor is worth keeping.
    fn message(&mut self, payload: &[u8], around: &mut Around<'_>) -> bool {
        let (Some(round), Some(mark)) = (around.round, around.finder.find(payload)) else {
            around.tally.events.foreign += 1;
            return around.resume;
        };
        if mark.run != round.run {
            around.tally.events.strays += 1;
            return around.resume;
        }
        if let Some(stream) = around.tally.streams.get_mut(usize::from(mark.stream)) {
            stream.received += 1;
            if around.now_us >= round.measure_from_us && around.now_us < round.end_us {
                stream.arrived += 1;
            }
            if mark.scheduled_us >= round.measure_from_us {
                stream.latency.record(around.now_us.saturating_sub(mark.scheduled_us));
            }
        }
        self.account(&mark);
        around.resume
    }

    fn account(&mut self, mark: &Mark) {
        let of = |entry: &&mut Entry| entry.stream == mark.stream && entry.target == mark.target;
        if let Some(entry) = self.accounts.iter_mut().find(of) {
            entry.ledger.receive(mark.number);
        }
    }

    fn keep_cursor(&mut self, cursor: &[u8]) {
        let Ok(cursor) = std::str::from_utf8(cursor) else { return };
        if cursor.len() <= CURSOR_BYTES_MAX {
            let kept = self.cursor.get_or_insert_default();
            kept.clear();
            kept.push_str(cursor);
        }
    }

    /// How many of the messages sent so far are due to it and not there.
    pub(crate) fn outstanding(&self, round: &Round, sent: &[u64]) -> impl Iterator<Item = (usize, u64)> {
        self.accounts.iter().map(|entry| {
            let stream = usize::from(entry.stream);
            let last = last(round, sent, entry);
            (stream, entry.ledger.outstanding(last))
        })
    }

    /// Closes its books.
    pub(crate) fn settle(&mut self, round: &Round, settlement: &Settlement) -> Vec<(usize, Account)> {
        let entries = std::mem::take(&mut self.accounts).into_iter();
        let settled = entries.map(|entry| {
            let last = last(round, &settlement.sent, &entry);
            let exempt = settlement.exempt_of(entry.stream, entry.target);
            (usize::from(entry.stream), entry.ledger.settle(last, &exempt))
        });
        settled.collect()
    }
}

fn last(round: &Round, sent: &[u64], entry: &Entry) -> u32 {
    let stream = usize::from(entry.stream);
    match (round.streams.get(stream), sent.get(stream)) {
        (Some(of), Some(sent)) => of.schedule.numbers_below(entry.target, *sent),
        _ => 0,
    }
}
