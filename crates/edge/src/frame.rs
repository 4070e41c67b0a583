//! WebSocket frames as a server sends them (RFC 6455 section 5.2), made once and shared by every connection. Reading
//! frames is tungstenite's work.

use bytes::{BufMut, Bytes, BytesMut};

const FIN_TEXT: u8 = 0x81;
const FIN_CLOSE: u8 = 0x88;
const FIN_PING: u8 = 0x89;
/// The longest header a server sends: two bytes and a 64-bit length.
const HEADER_BYTES_MAX: usize = 10;
/// A control frame's payload is at most 125 bytes, of which a close frame's code takes two.
const CLOSE_REASON_BYTES_MAX: usize = 123;

/// An empty ping.
pub(crate) const PING: Bytes = Bytes::from_static(&[FIN_PING, 0]);

/// One text frame around `payload`.
pub(crate) fn text(payload: &[u8]) -> Bytes {
    text_of(payload.len(), |frame| frame.put_slice(payload))
}

/// One text frame whose payload of exactly `length` bytes is written by `payload`.
pub(crate) fn text_of(length: usize, payload: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER_BYTES_MAX + length);
    frame.put_u8(FIN_TEXT);
    match length {
        0..=125 => frame.put_u8(length as u8),
        126..=0xffff => {
            frame.put_u8(126);
            frame.put_u16(length as u16);
        }
        _ => {
            frame.put_u8(127);
            frame.put_u64(length as u64);
        }
    }
    let header = frame.len();
    payload(&mut frame);
    debug_assert_eq!(frame.len(), header + length);
    frame.freeze()
}

/// The payload of a text frame that [`text`] made.
pub(crate) fn payload(frame: &Bytes) -> Bytes {
    let header = match frame.get(1) {
        Some(127) => 10,
        Some(126) => 4,
        _ => 2,
    };
    frame.slice(header.min(frame.len())..)
}

/// A close frame with a status code (RFC 6455 section 7.4) and a reason, cut to what a control frame can carry.
pub(crate) fn close(code: u16, reason: &str) -> Bytes {
    let end = reason.floor_char_boundary(CLOSE_REASON_BYTES_MAX);
    let reason = &reason.as_bytes()[..end];
    let mut frame = BytesMut::with_capacity(4 + reason.len());
    frame.put_u8(FIN_CLOSE);
    frame.put_u8(2 + reason.len() as u8);
    frame.put_u16(code);
    frame.put_slice(reason);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tungstenite::protocol::{Role, WebSocket};
    use tungstenite::{Message, error::Error};

    fn read(frame: &Bytes) -> Message {
        let mut client = WebSocket::from_raw_socket(std::io::Cursor::new(frame.to_vec()), Role::Client, None);
        client.read().unwrap()
    }

    proptest! {
        #[test]
        fn a_client_reads_what_was_framed(text in "\\PC{0,300}") {
            let frame = super::text(text.as_bytes());
            prop_assert_eq!(payload(&frame), Bytes::copy_from_slice(text.as_bytes()));
            prop_assert_eq!(read(&frame), Message::text(text));
        }
    }

    #[test]
    fn every_length_form_is_read_back() {
        for length in [0, 125, 126, 0xffff, 0x1_0000, 200_000] {
            let frame = text(&vec![b'x'; length]);
            assert_eq!(read(&frame).len(), length);
            assert_eq!(payload(&frame).len(), length);
        }
    }

    #[test]
    fn control_frames_are_read_back() {
        assert!(matches!(read(&PING), Message::Ping(_)));
        let long = "é".repeat(100);
        let Message::Close(Some(close)) = read(&close(1001, &long)) else { panic!("not a close frame") };
        assert_eq!(u16::from(close.code), 1001);
        assert!(long.starts_with(close.reason.as_str()) && close.reason.len() > 100);
        let mut client = WebSocket::from_raw_socket(std::io::Cursor::new(Vec::new()), Role::Client, None);
        assert!(matches!(client.read(), Err(Error::Protocol(_) | Error::Io(_) | Error::ConnectionClosed)));
    }
}
