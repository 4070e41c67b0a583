//! The mark in every message: which run, stream, target and number it is, and when it was scheduled. Fixed width, so that
//! a client finds and reads it without parsing JSON. Knows nothing of what surrounds it.

use memchr::memmem::Finder;

/// What a mark looks like in JSON, up to its digits.
const OPENING: &[u8] = br#""mark":""#;
/// `run stream target number scheduled`, in hexadecimal digits without separators.
const DIGITS: usize = 8 + 2 + 8 + 8 + 16;
/// How many bytes a mark takes, opening and closing quotes included.
pub(crate) const MARK_BYTES: usize = OPENING.len() + DIGITS + 1;

/// Names one message of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The round it belongs to: messages of other rounds and other tools are strays.
    pub run: u32,
    /// The stream's index in the round.
    pub stream: u8,
    /// The target's index in the stream.
    pub target: u32,
    /// Its number among the target's messages, from 1.
    pub number: u32,
    /// When it was due to be sent, in microseconds of the Unix epoch.
    pub scheduled_us: u64,
}

impl Mark {
    /// Appends `"mark":"…"`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(OPENING);
        put_hex(out, u64::from(self.run), 8);
        put_hex(out, u64::from(self.stream), 2);
        put_hex(out, u64::from(self.target), 8);
        put_hex(out, u64::from(self.number), 8);
        put_hex(out, self.scheduled_us, 16);
        out.push(b'"');
    }

    fn read(digits: &[u8]) -> Option<Self> {
        let (run, rest) = hex(digits, 8)?;
        let (stream, rest) = hex(rest, 2)?;
        let (target, rest) = hex(rest, 8)?;
        let (number, rest) = hex(rest, 8)?;
        let (scheduled_us, _) = hex(rest, 16)?;
        // widths above bound the values
        Some(Self {
            run: run as u32,
            stream: stream as u8,
            target: target as u32,
            number: number as u32,
            scheduled_us,
        })
    }
}

/// Finds marks. It looks first where the last one was: messages of one stream differ only in their digits.
#[derive(Debug)]
pub struct MarkFinder {
    finder: Finder<'static>,
    last: usize,
}

impl MarkFinder {
    /// A finder that has seen nothing.
    pub fn new() -> Self {
        Self { finder: Finder::new(OPENING), last: 0 }
    }

    /// The mark in these bytes, if there is one.
    pub fn find(&mut self, bytes: &[u8]) -> Option<Mark> {
        if let Some(digits) = digits_at(bytes, self.last) {
            return Mark::read(digits);
        }
        self.last = self.finder.find(bytes)?;
        Mark::read(digits_at(bytes, self.last)?)
    }
}

impl Default for MarkFinder {
    fn default() -> Self {
        Self::new()
    }
}

fn digits_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let digits = bytes.get(at..)?.strip_prefix(OPENING)?;
    digits.get(..DIGITS)
}

fn put_hex(out: &mut Vec<u8>, value: u64, width: usize) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for place in (0..width).rev() {
        out.push(HEX[(value >> (4 * place)) as usize & 0xf]);
    }
}

fn hex(digits: &[u8], width: usize) -> Option<(u64, &[u8])> {
    let (digits, rest) = digits.split_at_checked(width)?;
    let mut value = 0;
    let mut wrong = 0;
    for digit in digits {
        let nibble = NIBBLES[usize::from(*digit)];
        wrong |= nibble;
        value = value << 4 | u64::from(nibble & 0xf);
    }
    (wrong & NOT_A_DIGIT == 0).then_some((value, rest))
}

const NOT_A_DIGIT: u8 = 0x80;
static NIBBLES: [u8; 256] = nibbles();

const fn nibbles() -> [u8; 256] {
    let mut table = [NOT_A_DIGIT; 256];
    let mut i = 0;
    while i < 16 {
        table[b"0123456789abcdef"[i] as usize] = i as u8;
        i += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn marks()(run: u32, stream: u8, target: u32, number: u32, scheduled_us: u64) -> Mark {
            Mark { run, stream, target, number, scheduled_us }
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_found_whatever_surrounds_it(
            all in prop::collection::vec((marks(), "[ -~]{0,40}", "[ -~]{0,40}"), 1..10)
        ) {
            let mut finder = MarkFinder::new();
            for (mark, before, after) in all {
                prop_assume!(!before.contains("mark"));
                let mut bytes = before.into_bytes();
                mark.write(&mut bytes);
                bytes.extend_from_slice(after.as_bytes());
                prop_assert_eq!(finder.find(&bytes), Some(mark));
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, at in 0_usize..80) {
            let mut finder = MarkFinder { last: at, ..MarkFinder::new() };
            prop_assert_eq!(finder.find(&bytes), None);
        }
    }

    #[test]
    fn a_mark_has_a_fixed_width_and_only_digits() {
        let mark = Mark { run: 1, stream: 2, target: 3, number: 4, scheduled_us: 5 };
        let mut bytes = Vec::new();
        mark.write(&mut bytes);
        assert_eq!(bytes.len(), MARK_BYTES);
        assert_eq!(bytes, br#""mark":"000000010200000003000000040000000000000005""#);
        assert_eq!(MarkFinder::new().find(&bytes[..bytes.len() - 2]), None);
        bytes[10] = b'G';
        assert_eq!(MarkFinder::new().find(&bytes), None);
    }
}
