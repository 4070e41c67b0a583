//! Writing JSON strings straight into a packet, their length known beforehand so that it is allocated once. Reading
//! JSON is serde_json's work.

use bytes::BufMut;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// How many bytes [`put_string`] writes.
pub(crate) fn string_len(text: &str) -> usize {
    2 + text.bytes().map(escaped_len).sum::<usize>()
}

/// Writes `text` as a JSON string, quotes included.
pub(crate) fn put_string(out: &mut impl BufMut, text: &str) {
    out.put_u8(b'"');
    for part in text.as_bytes().split_inclusive(|&byte| escaped_len(byte) != 1) {
        match part.split_last() {
            Some((&last, plain)) if escaped_len(last) != 1 => {
                out.put_slice(plain);
                put_escaped(out, last);
            }
            _ => out.put_slice(part),
        }
    }
    out.put_u8(b'"');
}

fn escaped_len(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

fn put_escaped(out: &mut impl BufMut, byte: u8) {
    match byte {
        b'"' | b'\\' => out.put_slice(&[b'\\', byte]),
        _ => {
            out.put_slice(br"\u00");
            out.put_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(text in any::<String>()) {
            let mut json = Vec::new();
            put_string(&mut json, &text);
            prop_assert_eq!(json.len(), string_len(&text));
            prop_assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), text);
        }
    }

    #[test]
    fn every_character_that_needs_it_is_escaped() {
        let text: String = (0..=0x7f_u8).map(char::from).collect();
        let mut json = Vec::new();
        put_string(&mut json, &text);
        assert_eq!(json.len(), string_len(&text));
        assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), text);
    }
}
