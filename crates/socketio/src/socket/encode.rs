//! Writing packets of the main namespace, each with the Engine.IO type of a message (`4`) in front, ready to send.
//! JSON is taken as ready bytes and trusted to be valid.

use bytes::{BufMut, Bytes, BytesMut};

use crate::json;

/// An event with one ready JSON argument, and the cursor as the last argument if it has one: the fan-out's packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its argument: one valid JSON value.
    pub arg: &'a [u8],
    /// A string that follows as the last argument.
    pub cursor: Option<&'a str>,
}

impl Event<'_> {
    /// How many bytes [`Event::put`] writes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let cursor = self.cursor.map_or(0, |cursor| 1 + json::string_len(cursor));
        br#"42[,]"#.len() + json::string_len(self.name) + self.arg.len() + cursor
    }

    /// Writes `42["name",<arg>,"cursor"]`.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_slice(b"42[");
        json::put_string(out, self.name);
        out.put_u8(b',');
        out.put_slice(self.arg);
        if let Some(cursor) = self.cursor {
            out.put_u8(b',');
            json::put_string(out, cursor);
        }
        out.put_u8(b']');
    }

    /// The event as one packet, allocated once.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_len());
        self.put(&mut out);
        out.freeze()
    }
}

/// `42["name",<arg>,"cursor"]`: see [`Event`].
#[must_use]
pub fn encode_event(name: &str, arg: &[u8], cursor: Option<&str>) -> Bytes {
    Event { name, arg, cursor }.encode()
}

/// `43<id>[<arg>]`: the answer to a client's event that asked for an ack. `arg` is one valid JSON value.
#[must_use]
pub fn encode_ack(id: u64, arg: &[u8]) -> Bytes {
    let id = id.to_string();
    let mut out = BytesMut::with_capacity(b"43[]".len() + id.len() + arg.len());
    out.put_slice(b"43");
    out.put_slice(id.as_bytes());
    out.put_u8(b'[');
    out.put_slice(arg);
    out.put_u8(b']');
    out.freeze()
}

/// `40{"sid":"…","pid":"…"}`: the client is connected, as this socket, and may recover this session.
#[must_use]
pub fn encode_connect(sid: &str, pid: Option<&str>) -> Bytes {
    let mut out = Vec::with_capacity(80);
    out.put_slice(br#"40{"sid":"#);
    json::put_string(&mut out, sid);
    if let Some(pid) = pid {
        out.put_slice(br#","pid":"#);
        json::put_string(&mut out, pid);
    }
    out.put_u8(b'}');
    out.into()
}

/// `44<namespace>,{"message":"…","data":…}`: the client may not enter the namespace. `data` is one valid JSON value.
#[must_use]
pub fn encode_connect_error(namespace: &str, message: &str, data: Option<&[u8]>) -> Bytes {
    let mut out = Vec::with_capacity(80);
    out.put_slice(b"44");
    if namespace != super::MAIN_NAMESPACE {
        out.put_slice(namespace.as_bytes());
        out.put_u8(b',');
    }
    out.put_slice(br#"{"message":"#);
    json::put_string(&mut out, message);
    if let Some(data) = data {
        out.put_slice(br#","data":"#);
        out.put_slice(data);
    }
    out.put_u8(b'}');
    out.into()
}

/// `41`: the server ends the client's stay in the namespace.
#[must_use]
pub fn encode_disconnect() -> Bytes {
    Bytes::from_static(b"41")
}
