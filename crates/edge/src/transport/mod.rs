//! The protocols clients speak. Each transport owns its connections' tasks; what a client may do is [`crate::client`]'s.

mod ask;
mod engine;
mod events;
mod handshake;
mod plain;
mod polling;
mod reader;
mod socketio;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

pub(crate) use self::events::serve as events;
pub(crate) use self::plain::serve as plain;
pub(crate) use self::polling::PollingSessions;
pub(crate) use self::socketio::serve as socketio;

/// Random bytes of an id that must not be guessed.
const SECRET_BYTES: usize = 15;

/// A new id that cannot be guessed: 20 characters of base64url, from the operating system's generator.
pub(crate) fn secret_id() -> Result<String, getrandom::Error> {
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
