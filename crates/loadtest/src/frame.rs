//! WebSocket frames (RFC 6455 section 5.2) as a client sees them: found in a read buffer without copying, and written
//! masked. Knows no socket.

/// The longest frame a client takes; longer ones end its connection.
pub(crate) const FRAME_BYTES_MAX: usize = 4 << 20;
/// The first two bytes, a 64-bit length and, towards a server, a mask.
const HEADER_BYTES_MAX: usize = 14;

/// A frame's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

/// What stands at the beginning of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// A whole frame, and how many bytes it took.
    Frame { kind: Kind, payload: &'a [u8], taken: usize },
    /// A part of one.
    Partial,
}

/// Why bytes are no frame that a server may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of unknown kind")]
    Kind,
    #[error("a frame in fragments")]
    Fragment,
    #[error("a masked frame from a server")]
    Masked,
    #[error("a frame longer than {FRAME_BYTES_MAX} bytes")]
    TooLong,
}

/// Looks for a frame at the beginning of `bytes`.
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed<'_>, FrameError> {
    let [first, second, rest @ ..] = bytes else { return Ok(Parsed::Partial) };
    let kind = match first {
        0x81 => Kind::Text,
        0x82 => Kind::Binary,
        0x88 => Kind::Close,
        0x89 => Kind::Ping,
        0x8a => Kind::Pong,
        0x00..=0x80 => return Err(FrameError::Fragment),
        _ => return Err(FrameError::Kind),
    };
    let (length, header) = match (second, rest) {
        (0x80.., _) => return Err(FrameError::Masked),
        (126, [a, b, ..]) => (usize::from(u16::from_be_bytes([*a, *b])), 4),
        (127, [a, b, c, d, e, f, g, h, ..]) => {
            let length = u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
            (usize::try_from(length).map_err(|_| FrameError::TooLong)?, 10)
        }
        (126 | 127, _) => return Ok(Parsed::Partial),
        (length, _) => (usize::from(*length), 2),
    };
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong);
    }
    let taken = header + length;
    match bytes.get(header..taken) {
        Some(payload) => Ok(Parsed::Frame { kind, payload, taken }),
        None => Ok(Parsed::Partial),
    }
}

/// Appends a text frame.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put(out, 0x81, text);
}

/// Appends the answer to a ping.
pub(crate) fn put_pong(out: &mut Vec<u8>, payload: &[u8]) {
    put(out, 0x8a, payload);
}

/// The mask is zero: it is there because the protocol demands one, and hides nothing from anybody on loopback.
fn put(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    out.reserve(HEADER_BYTES_MAX + payload.len());
    out.push(first);
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut masked = Vec::new();
        put(&mut masked, first, payload);
        let header = masked.len() - payload.len() - 4;
        let mut frame = masked[..header].to_vec();
        frame[1] &= 0x7f;
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn every_length_form_is_read() {
        for length in [0, 1, 125, 126, 0xffff, 0x1_0000, FRAME_BYTES_MAX] {
            let payload = vec![b'x'; length];
            let frame = server_frame(0x81, &payload);
            let expected = Parsed::Frame { kind: Kind::Text, payload: &payload, taken: frame.len() };
            assert_eq!(parse(&frame), Ok(expected));
            assert_eq!(parse(&frame[..frame.len() - 1]), Ok(Parsed::Partial), "{length}");
        }
        assert_eq!(parse(&server_frame(0x81, &vec![0; FRAME_BYTES_MAX + 1])), Err(FrameError::TooLong));
    }

    #[test]
    fn what_a_server_may_not_send_is_refused() {
        for (bytes, error) in [
            (&[0x01, 1, 0][..], FrameError::Fragment),
            (&[0x80, 1, 0], FrameError::Fragment),
            (&[0x83, 0], FrameError::Kind),
            (&[0xc1, 0], FrameError::Kind),
            (&[0x81, 0x80, 0, 0, 0, 0], FrameError::Masked),
            (&[0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255], FrameError::TooLong),
        ] {
            assert_eq!(parse(bytes), Err(error), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
