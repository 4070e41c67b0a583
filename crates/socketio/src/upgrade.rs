//! The server's side of moving a session from polling to WebSocket: what arrives on the new WebSocket until the
//! session has moved. The polling session lives on untouched meanwhile; how long a probe may take is the caller's.

use crate::engine::{PROBE, Packet};

/// A WebSocket that probes whether it may take over a polling session.
#[derive(Debug, Default)]
pub struct Upgrade {
    probed: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Send [`PROBE_PONG`](crate::engine::PROBE_PONG) on the WebSocket, and answer every poll that is pending or
    /// comes from now on with [`NOOP`](crate::engine::NOOP) at the latest, so that the client can let go of polling.
    Probed,
    /// The session is on this WebSocket now: what was queued for polling goes out here, later polls are refused.
    Switch,
    /// Close the WebSocket; the session stays on polling.
    Refuse,
}

impl Upgrade {
    /// Takes a packet that arrived on the probing WebSocket; one that cannot be decoded is to be refused.
    pub fn on_packet(&mut self, packet: &Packet<'_>) -> Step {
        match packet {
            Packet::Ping(PROBE) => {
                self.probed = true;
                Step::Probed
            }
            Packet::Upgrade if self.probed => Step::Switch,
            _ => Step::Refuse,
        }
    }

    /// Whether polls are to be answered at once, with a noop if there is nothing else.
    #[must_use]
    pub fn drains_polls(&self) -> bool {
        self.probed
    }
}
