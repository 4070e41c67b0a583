//! Server-Sent Events over HTTP/1.1: the URL registers, chunks bring events.

use memchr::memmem;

use super::{Around, Client, Ended, Stage};
use crate::frame::FRAME_BYTES_MAX;
use crate::plan::{Audience, Cast};

/// A chunk's size line: more digits than any size that is taken, an extension, and the line's end.
const SIZE_LINE_BYTES_MAX: usize = 64;

/// How far the body of a response is.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    is_chunked: bool,
    /// An event of which only a part is there. Empty unless a chunk ends inside of one.
    begun: Vec<u8>,
}

/// One whole chunk at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
struct Chunk<'a> {
    data: &'a [u8],
    taken: usize,
}

impl Chunks {
    pub(super) fn set_chunked(&mut self, head: &[u8]) -> Result<(), Ended> {
        let head = std::str::from_utf8(head).map_err(|_| Ended::answer(head))?.to_ascii_lowercase();
        self.is_chunked = head.contains("\r\ntransfer-encoding: chunked\r\n");
        Ok(())
    }
}

/// Where a client connects to be registered.
pub(super) fn path(client: u32, cast: &Cast) -> String {
    // names of a cast hold nothing that a URL would have to escape
    let mut path = format!("/events?socketId={}", cast.name(Audience::Client, client));
    for group in cast.targets_of(client, Audience::Group) {
        path.push_str("&group=");
        path.push_str(&cast.name(Audience::Group, group));
    }
    path
}

impl Client {
    pub(super) fn heed_events(&mut self, bytes: &[u8], around: &mut Around<'_>) -> Result<usize, Ended> {
        if !self.chunks.is_chunked {
            self.body(bytes, around)?;
            return Ok(bytes.len());
        }
        let mut taken = 0;
        while let Some(chunk) = chunk(&bytes[taken..])? {
            if chunk.data.is_empty() {
                return Err(Ended::Closed);
            }
            self.body(chunk.data, around)?;
            taken += chunk.taken;
        }
        Ok(taken)
    }

    /// Events that are whole are read where they stand.
    fn body(&mut self, data: &[u8], around: &mut Around<'_>) -> Result<(), Ended> {
        if self.chunks.begun.is_empty() {
            let taken = self.events(data, around)?;
            self.chunks.begun.extend_from_slice(&data[taken..]);
            return Ok(());
        }
        let mut begun = std::mem::take(&mut self.chunks.begun);
        begun.extend_from_slice(data);
        if begun.len() > FRAME_BYTES_MAX {
            return Err(Ended::answer(b"an event without an end"));
        }
        let taken = self.events(&begun, around)?;
        begun.drain(..taken);
        begun.shrink_to_fit();
        self.chunks.begun = begun;
        Ok(())
    }

    fn events(&mut self, data: &[u8], around: &mut Around<'_>) -> Result<usize, Ended> {
        let mut taken = 0;
        while let Some(length) = memmem::find(&data[taken..], b"\n\n") {
            self.event(&data[taken..taken + length], around)?;
            taken += length + 2;
        }
        Ok(taken)
    }

    fn event(&mut self, event: &[u8], around: &mut Around<'_>) -> Result<(), Ended> {
        if let Some(fields) = event.strip_prefix(b"event: message\n") {
            if self.message(fields, around)
                && let Some(cursor) = cursor(fields)
            {
                self.keep_cursor(cursor);
            }
        } else if event.starts_with(b"event: registered\n") && self.stage == Stage::Registering {
            if self.is_resuming { self.resumed(around) } else { self.live(around) }
        } else if event.starts_with(b"event: gap\n") {
            around.tally.events.gaps += 1;
        } else if event.starts_with(b"event: superseded\n") {
            around.tally.events.superseded += 1;
        } else if !event.starts_with(b":") && !event.starts_with(b"retry:") {
            return Err(Ended::answer(event));
        }
        Ok(())
    }
}

fn cursor(fields: &[u8]) -> Option<&[u8]> {
    let rest = fields.strip_prefix(b"id: ")?;
    memchr::memchr(b'\n', rest).map(|end| &rest[..end])
}

/// The chunk at the beginning of `bytes`, once it is whole (RFC 9112 section 7.1). An empty one is the last.
fn chunk(bytes: &[u8]) -> Result<Option<Chunk<'_>>, Ended> {
    let Some(line) = memmem::find(&bytes[..bytes.len().min(SIZE_LINE_BYTES_MAX)], b"\r\n") else {
        return if bytes.len() < SIZE_LINE_BYTES_MAX { Ok(None) } else { Err(Ended::answer(bytes)) };
    };
    let digits = bytes[..line].split(|c| *c == b';').next().and_then(|size| std::str::from_utf8(size).ok());
    let size = digits.and_then(|digits| usize::from_str_radix(digits.trim(), 16).ok());
    let size = size.filter(|size| *size <= FRAME_BYTES_MAX).ok_or_else(|| Ended::answer(bytes))?;
    let (start, end) = (line + 2, line + 2 + size);
    if bytes.len() < end + 2 {
        return Ok(None);
    }
    if &bytes[end..end + 2] != b"\r\n" {
        return Err(Ended::answer(bytes));
    }
    Ok(Some(Chunk { data: &bytes[start..end], taken: end + 2 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_read_once_they_are_whole() {
        let bytes = b"5;x=y\r\nhello\r\n0\r\n\r\n";
        for end in 0..14 {
            assert_eq!(chunk(&bytes[..end]), Ok(None), "{end}");
        }
        assert_eq!(chunk(bytes), Ok(Some(Chunk { data: b"hello", taken: 14 })));
        assert_eq!(chunk(&bytes[14..]), Ok(Some(Chunk { data: b"", taken: 5 })));
        for bad in [&b"x\r\n"[..], b"1\r\nabc", b"fffffffff\r\n", &[b'1'; 65]] {
            assert!(chunk(bad).is_err(), "{bad:?}");
        }
    }
}
