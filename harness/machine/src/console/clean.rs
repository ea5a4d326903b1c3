//! From the bytes of a serial line to text that patterns can be looked for in.
//!
//! Three things stand in the way of a pattern: escape sequences, cursor addressing (firmware menus), and
//! kernel lines that fall into the middle of what userspace prints. So the bytes are cleaned and parted in two:
//! the kernel's lines, whole, one at a time; and the rest, as if the kernel had been silent.

/// A line longer than this is no line, but noise: it is cut.
const LONGEST_KERNEL_LINE: usize = 4096;
/// `[ 1234567.123456]` is the longest stamp that counts.
const LONGEST_STAMP: usize = 24;

/// Where in an escape sequence (ECMA-48) the stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Escape {
    #[default]
    None,
    Begun,
    /// `ESC [`, until a final byte.
    Csi,
    /// `ESC ]` and the like, until BEL or `ESC \`.
    Text,
    TextEnding,
    /// `ESC (` and the like: one more byte.
    OneMore,
}

/// Cleans a stream of bytes, in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Cleaner {
    escape: Escape,
    utf8: Vec<u8>,
    stamp: String,
    kernel: Option<String>,
}

/// What came out of one piece.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cleaned {
    /// Text that is not the kernel's; lines end with `\n`.
    pub(super) rest: String,
    /// The kernel's lines that ended in this piece, with their time stamps.
    pub(super) kernel: Vec<String>,
}

impl Cleaner {
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Cleaned {
        let mut out = Cleaned::default();
        for &byte in bytes {
            if let Some(c) = self.unescape(byte) {
                self.part(c, &mut out);
            }
        }
        out
    }

    /// The character that `byte` completes, if any, outside of escape sequences. Cursor addressing becomes a
    /// line break: what follows it stands elsewhere on the screen.
    fn unescape(&mut self, byte: u8) -> Option<char> {
        let (next, out) = match (self.escape, byte) {
            (Escape::None, 0x1b) => {
                self.utf8.clear();
                (Escape::Begun, None)
            }
            (Escape::None, _) => return self.decode(byte),
            (Escape::Begun, b'[') => (Escape::Csi, None),
            (Escape::Begun, b']' | b'P' | b'X' | b'^' | b'_') => (Escape::Text, None),
            (Escape::Begun, b'(' | b')' | b'*' | b'+' | b'#' | b'%') => (Escape::OneMore, None),
            (Escape::Csi, b'H' | b'f') => (Escape::None, Some('\n')),
            (Escape::Csi, 0x20..=0x3f) => (Escape::Csi, None),
            (Escape::Text | Escape::TextEnding, 0x07) => (Escape::None, None),
            (Escape::Text, 0x1b) => (Escape::TextEnding, None),
            (Escape::TextEnding, b'\\') => (Escape::None, None),
            (Escape::Text | Escape::TextEnding, b'\n') => (Escape::None, Some('\n')),
            (Escape::Text | Escape::TextEnding, _) => (Escape::Text, None),
            (Escape::Begun | Escape::Csi, 0x1b) => (Escape::Begun, None),
            (Escape::Begun | Escape::Csi | Escape::OneMore, _) => (Escape::None, None),
        };
        self.escape = next;
        out
    }

    fn decode(&mut self, byte: u8) -> Option<char> {
        if byte.is_ascii() {
            self.utf8.clear();
            return match byte {
                b'\n' | b'\t' | 0x20..=0x7e => Some(char::from(byte)),
                _ => None,
            };
        }
        if byte >= 0xc0 {
            self.utf8.clear();
        }
        self.utf8.push(byte);
        let c = std::str::from_utf8(&self.utf8).ok().and_then(|s| s.chars().next());
        if c.is_some() || self.utf8.len() >= 4 {
            self.utf8.clear();
        }
        c
    }

    /// Sends `c` to the kernel's line or to the rest.
    fn part(&mut self, c: char, out: &mut Cleaned) {
        if let Some(line) = &mut self.kernel {
            if c == '\n' {
                out.kernel.push(std::mem::take(line));
                self.kernel = None;
            } else if line.len() < LONGEST_KERNEL_LINE {
                line.push(c);
            }
            return;
        }
        self.stamp.push(c);
        match stamp(&self.stamp) {
            Stamp::Whole => self.kernel = Some(std::mem::take(&mut self.stamp)),
            Stamp::Begun => {}
            Stamp::Not => {
                let held = std::mem::take(&mut self.stamp);
                // The character that broke it may begin another.
                let again = c == '[' && held.len() > 1;
                let keep = if again { &held[..held.len() - 1] } else { &held[..] };
                out.rest.push_str(keep);
                if again {
                    self.stamp.push(c);
                }
            }
        }
    }
}

enum Stamp {
    Whole,
    Begun,
    Not,
}

/// Whether `text` is, or may become, a kernel's time stamp: `[`, blanks, digits, `.`, six digits, `]`
/// (`print_time` in Linux' kernel/printk/printk.c).
fn stamp(text: &str) -> Stamp {
    let Some(inner) = text.strip_prefix('[') else { return Stamp::Not };
    if text.len() > LONGEST_STAMP {
        return Stamp::Not;
    }
    let inner = inner.trim_start_matches(' ');
    let digits = inner.bytes().take_while(u8::is_ascii_digit).count();
    let Some(fraction) = inner[digits..].strip_prefix('.') else {
        return if inner[digits..].is_empty() { Stamp::Begun } else { Stamp::Not };
    };
    let places = fraction.bytes().take_while(u8::is_ascii_digit).count();
    match (digits, places, &fraction[places..]) {
        (1.., 6, "]") => Stamp::Whole,
        (1.., 0..=6, "") => Stamp::Begun,
        _ => Stamp::Not,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn clean(text: &[u8]) -> Cleaned {
        Cleaner::default().feed(text)
    }

    #[rstest]
    #[case(b"plain\r\ntext\n", "plain\ntext\n")]
    #[case(b"\x1b[0;1;39mbold\x1b[0m\n", "bold\n")]
    #[case(b"\x1b[2J\x1b[01;01Hat\x1b[10;20Hthere\n", "\nat\nthere\n")]
    #[case(b"\x1b]0;title\x07after\n", "after\n")]
    #[case(b"\x1b(Bx\n", "x\n")]
    #[case("🔐 Please\n".as_bytes(), "🔐 Please\n")]
    #[case(b"\xff\xfebad\xf0\n", "bad\n")]
    #[case(b"[  OK  ] Started\n", "[  OK  ] Started\n")]
    #[case(b"[[12\n", "[[12\n")]
    fn the_rest(#[case] bytes: &[u8], #[case] rest: &str) {
        assert_eq!(clean(bytes).rest, rest);
    }

    #[test]
    fn a_kernel_line_in_the_middle_is_lifted_out() {
        let cleaned = clean(b"Please enter pass[   12.345678] nvme nvme0: hello\r\nphrase for disk\n");
        assert_eq!(cleaned.rest, "Please enter passphrase for disk\n");
        assert_eq!(cleaned.kernel, ["[   12.345678] nvme nvme0: hello"]);
    }

    #[test]
    fn pieces_of_any_size_come_to_the_same() {
        let text = "a\x1b[1mb🔐[    1.000001] k\r\n[ x[    2.000002] l\r\nend\n".as_bytes();
        let whole = clean(text);
        let mut cleaner = Cleaner::default();
        let mut parts = Cleaned::default();
        for byte in text {
            let piece = cleaner.feed(&[*byte]);
            parts.rest += &piece.rest;
            parts.kernel.extend(piece.kernel);
        }
        assert_eq!(parts, whole);
        assert_eq!(whole.rest, "ab🔐[ xend\n");
        assert_eq!(whole.kernel.len(), 2);
    }
}
