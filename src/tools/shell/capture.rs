//! The output of a program, bounded while it comes: its beginning and its end, without the codes that paint a terminal.

use anstream::adapter::StripBytes;
use std::collections::VecDeque;

/// Keeps the head and the tail of a stream of bytes.
pub struct Capture {
    strip: StripBytes,
    max_bytes: usize,
    max_lines: usize,
    head: Vec<u8>,
    head_lines: usize,
    tail: VecDeque<u8>,
    tail_lines: usize,
    /// What came, painting aside.
    bytes: u64,
    left_out: u64,
}

impl Capture {
    /// Keeps at most so many bytes and lines, half of them of the end.
    pub fn new(max_bytes: usize, max_lines: usize) -> Self {
        Self {
            strip: StripBytes::new(),
            max_bytes,
            max_lines,
            head: Vec::new(),
            head_lines: 0,
            tail: VecDeque::new(),
            tail_lines: 0,
            bytes: 0,
            left_out: 0,
        }
    }

    /// Takes what came.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut strip = std::mem::take(&mut self.strip);
        for part in strip.strip_next(bytes) {
            self.keep(part);
        }
        self.strip = strip;
    }

    fn keep(&mut self, mut part: &[u8]) {
        self.bytes += part.len() as u64;
        let (most_bytes, most_lines) = (self.max_bytes / 2, self.max_lines / 2);
        // Once something went to the tail, all of the rest does.
        while self.tail.is_empty() && self.left_out == 0 && !part.is_empty() {
            let room = most_bytes.saturating_sub(self.head.len());
            if room == 0 || self.head_lines >= most_lines {
                break;
            }
            let line = memchr::memchr(b'\n', part).map_or(part.len(), |at| at + 1);
            let (taken, rest) = part.split_at(line.min(room));
            self.head.extend_from_slice(taken);
            self.head_lines += usize::from(taken.ends_with(b"\n"));
            part = rest;
        }
        // Of a flood only the last bytes can stay.
        if part.len() > most_bytes {
            let (lost, rest) = part.split_at(part.len() - most_bytes);
            self.left_out += lost.len() as u64 + self.tail.len() as u64;
            (self.tail_lines, part) = (0, rest);
            self.tail.clear();
        }
        self.tail_lines += memchr::memchr_iter(b'\n', part).count();
        self.tail.extend(part);
        while self.tail.len() > most_bytes || self.tail_lines > most_lines {
            let Some(byte) = self.tail.pop_front() else { break };
            self.tail_lines -= usize::from(byte == b'\n');
            self.left_out += 1;
        }
    }

    /// Bytes that came so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The text, and whether something was left out.
    pub fn text(mut self) -> (String, bool) {
        if self.left_out == 0 {
            self.head.extend(&self.tail);
            return (String::from_utf8_lossy(&self.head).into_owned(), false);
        }
        let tail: Vec<u8> = self.tail.into();
        let left_out = self.left_out;
        let head = String::from_utf8_lossy(&self.head);
        let gap = if head.ends_with('\n') || head.is_empty() { "" } else { "\n" };
        let tail = String::from_utf8_lossy(&tail);
        (format!("{head}{gap}[… {left_out} bytes left out …]\n{tail}"), true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    fn captured(parts: &[&[u8]], bytes: usize, lines: usize) -> (String, bool) {
        let mut capture = Capture::new(bytes, lines);
        parts.iter().for_each(|part| capture.push(part));
        capture.text()
    }

    #[test]
    fn little_stays_whole_and_of_much_both_ends_stay() {
        assert_eq!(captured(&[b"one\n", b"two"], 100, 10), ("one\ntwo".into(), false));
        let lines: Vec<u8> = (0..100).flat_map(|n| format!("{n}\n").into_bytes()).collect();
        let (text, truncated) = captured(&[&lines], 10_000, 6);
        assert!(truncated);
        assert_eq!(text, "0\n1\n2\n[… 275 bytes left out …]\n97\n98\n99\n");
        let (text, _) = captured(&[&[b'x'; 1_000_000]], 20, 100);
        assert_eq!(text, "xxxxxxxxxx\n[… 999980 bytes left out …]\nxxxxxxxxxx");
    }

    #[test]
    fn paint_is_taken_off_also_where_it_is_cut() {
        assert_eq!(captured(&[b"\x1b[31mred\x1b[0m \x1b]0;title\x07plain"], 100, 10).0, "red plain");
        assert_eq!(captured(&[b"a\x1b", b"[3", b"1mb"], 100, 10).0, "ab");
        assert_eq!(captured(&[b"caf\xc3", b"\xa9"], 100, 10).0, "caf\u{e9}");
    }

    proptest! {
        #[test]
        fn never_more_than_allowed_and_nothing_lost_below(
            parts in prop::collection::vec("[a-z\n]{0,30}", 0..20), bytes in 16_usize..200, lines in 2_usize..20,
        ) {
            let mut capture = Capture::new(bytes, lines);
            parts.iter().for_each(|part| capture.push(part.as_bytes()));
            let whole = parts.concat();
            prop_assert_eq!(capture.bytes() as usize, whole.len());
            prop_assert!(capture.head.len() + capture.tail.len() <= bytes);
            let left_out = capture.left_out as usize;
            prop_assert_eq!(capture.head.len() + capture.tail.len() + left_out, whole.len());
            let (text, truncated) = capture.text();
            prop_assert_eq!(truncated, left_out > 0);
            prop_assert!(truncated || text == whole);
        }
    }
}
