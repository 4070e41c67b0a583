//! The server's side of moving a session from polling to WebSocket: what arrives on the new WebSocket until the
//! session has moved. The polling session lives on untouched meanwhile; how long a probe may take is the caller's.
//!
//! Engine.IO protocol 4, "Upgrade".

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

#[cfg(test)]
mod tests {
    use super::*;
    use Step::{Probed, Refuse, Switch};

    /// What each packet leads to, up to the one that ends the probe.
    fn steps(packets: &[&str]) -> Vec<Step> {
        let mut upgrade = Upgrade::default();
        packets.iter().map(|text| upgrade.on_packet(&Packet::decode(text).unwrap())).collect()
    }

    #[test]
    fn a_probed_websocket_takes_over() {
        assert_eq!(steps(&["2probe", "5"]), [Probed, Switch]);
        assert_eq!(steps(&["2probe", "2probe", "5"]), [Probed, Probed, Switch]);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["0{}", "1", "2", "2probe ", "3", "3probe", "40", "5", "6", "bAQID"] {
            assert_eq!(steps(&[text]), [Refuse], "{text}");
        }
        for text in ["0{}", "1", "2", "2probe ", "3", "3probe", "42[\"early\"]", "6", "bAQID"] {
            assert_eq!(steps(&["2probe", text]), [Probed, Refuse], "{text}");
        }
    }

    #[test]
    fn polls_are_drained_from_the_probe_on() {
        let mut upgrade = Upgrade::default();
        assert!(!upgrade.drains_polls());
        upgrade.on_packet(&Packet::Ping(PROBE));
        assert!(upgrade.drains_polls());
    }
}
