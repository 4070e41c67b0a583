//! Socket.IO 5 over Engine.IO 4: as much of it as a client that registers and listens needs.

use serde_json::{Value, json};

use super::{Around, Client, Ended, Stage};
use crate::frame;

/// The ack id of `register`; Socket.IO puts it between type and arguments.
const REGISTER: &[u8] = b"421";
const REGISTERED: &[u8] = b"431";
const MESSAGE: &[u8] = br#"42["message","#;

impl Client {
    pub(super) fn heed_socket_io(&mut self, packet: &[u8], around: &mut Around<'_>) -> Result<(), Ended> {
        if packet.starts_with(MESSAGE) {
            if self.message(packet, around)
                && let Some(cursor) = cursor(packet)
            {
                self.keep_cursor(cursor);
            }
            return Ok(());
        }
        match packet {
            b"2" => frame::put_text(around.out, b"3"),
            [b'0', open @ ..] => {
                let open: Value = serde_json::from_slice(open).map_err(|_| Ended::answer(packet))?;
                if let (Some(interval), Some(timeout)) =
                    (open["pingInterval"].as_u64(), open["pingTimeout"].as_u64())
                {
                    *around.announced_us = Some(interval.saturating_add(timeout).saturating_mul(1_000));
                }
                let connect = self.connect_packet();
                frame::put_text(around.out, connect.as_bytes());
                self.stage = Stage::Session;
            }
            [b'4', b'0', answer @ ..] => self.connected(answer, around)?,
            [b'4', b'2', ..] => self.told(packet, around),
            [b'4', b'3', ..] => self.answered(packet, around)?,
            [b'4', b'4', ..] => return Err(Ended::refused(packet)),
            [b'4', b'1', ..] | [b'1', ..] => return Err(Ended::Closed),
            b"6" => {}
            _ => return Err(Ended::answer(packet)),
        }
        Ok(())
    }

    fn connect_packet(&self) -> String {
        match (&self.pid, self.is_resuming) {
            (Some(pid), true) => format!("40{}", json!({"pid": pid, "offset": self.cursor})),
            _ => "40".to_owned(),
        }
    }

    fn connected(&mut self, answer: &[u8], around: &mut Around<'_>) -> Result<(), Ended> {
        let answer: Value = serde_json::from_slice(answer).map_err(|_| Ended::answer(answer))?;
        let pid = answer["pid"].as_str();
        if self.is_resuming {
            if pid.is_some() && pid == self.pid.as_deref() {
                self.resumed(around);
                return Ok(());
            }
            around.tally.events.resume_refused += 1;
        }
        self.pid = pid.map(Into::into);
        self.cursor = None;
        let mut register = REGISTER.to_vec();
        let arguments = json!(["register", self.registration(around.cast)]);
        register.extend_from_slice(arguments.to_string().as_bytes());
        frame::put_text(around.out, &register);
        self.stage = Stage::Registering;
        Ok(())
    }

    fn answered(&mut self, packet: &[u8], around: &mut Around<'_>) -> Result<(), Ended> {
        let answer = packet.strip_prefix(REGISTERED).filter(|_| self.stage == Stage::Registering);
        let answer = answer.ok_or_else(|| Ended::answer(packet))?;
        let answer: Value = serde_json::from_slice(answer).map_err(|_| Ended::answer(packet))?;
        if answer[0]["ok"] == true {
            self.live(around);
            Ok(())
        } else {
            Err(Ended::refused(packet))
        }
    }

    fn told(&mut self, packet: &[u8], around: &mut Around<'_>) {
        if packet.starts_with(br#"42["gap""#) {
            around.tally.events.gaps += 1;
        } else if packet.starts_with(br#"42["superseded""#) {
            around.tally.events.superseded += 1;
        }
    }
}

/// The last argument, where it is a string: `…,"<cursor>"]`.
fn cursor(packet: &[u8]) -> Option<&[u8]> {
    let rest = packet.strip_suffix(br#""]"#)?;
    let start = memchr::memrchr(b'"', rest)?;
    rest[..start].ends_with(b",").then(|| &rest[start + 1..])
}
