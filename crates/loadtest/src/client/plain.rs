//! Herald's plain WebSocket protocol: JSON frames with a `type`.

use serde_json::{Value, json};

use super::{Around, Client, Ended, Stage};
use crate::frame;

const MESSAGE: &[u8] = br#"{"type":"message","#;

impl Client {
    pub(super) fn heed_plain(&mut self, text: &[u8], around: &mut Around<'_>) -> Result<(), Ended> {
        if text.starts_with(MESSAGE) {
            if self.message(text, around)
                && let Some(cursor) = cursor(text)
            {
                self.keep_cursor(cursor);
            }
            return Ok(());
        }
        let told: Value = serde_json::from_slice(text).map_err(|_| Ended::answer(text))?;
        match (told["type"].as_str(), self.stage) {
            (Some("hello"), Stage::Greeting) => self.greeted(&told, around),
            (Some("resumed"), Stage::Session) => self.resumed(around),
            (Some("registered"), Stage::Registering) => self.live(around),
            (Some("error"), Stage::Session) => {
                around.tally.events.resume_refused += 1;
                self.cursor = None;
                self.ask_to_register(around);
            }
            (Some("gap"), _) => around.tally.events.gaps += 1,
            (Some("superseded"), _) => around.tally.events.superseded += 1,
            (Some("error"), _) => return Err(Ended::refused(text)),
            _ => return Err(Ended::answer(text)),
        }
        Ok(())
    }

    fn greeted(&mut self, told: &Value, around: &mut Around<'_>) {
        let pid: Option<Box<str>> = told["pid"].as_str().map(Into::into);
        if let (Some(old), true) = (&self.pid, self.is_resuming) {
            let mut ask = json!({"type": "resume", "id": 1, "pid": old});
            if let Some(cursor) = &self.cursor {
                ask["cursor"] = json!(cursor);
            }
            frame::put_text(around.out, ask.to_string().as_bytes());
            self.stage = Stage::Session;
        } else {
            self.pid = pid;
            self.cursor = None;
            self.ask_to_register(around);
        }
    }

    fn ask_to_register(&mut self, around: &mut Around<'_>) {
        let mut ask = self.registration(around.cast);
        ask["type"] = json!("register");
        frame::put_text(around.out, ask.to_string().as_bytes());
        self.stage = Stage::Registering;
    }
}

/// The last field: `…,"cursor":"<cursor>"}`.
fn cursor(text: &[u8]) -> Option<&[u8]> {
    let rest = text.strip_suffix(br#""}"#)?;
    let start = memchr::memrchr(b'"', rest)?;
    rest[..start].ends_with(br#","cursor":"#).then(|| &rest[start + 1..])
}
