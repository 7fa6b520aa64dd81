//! Lines out of chunks, each bounded: how long batches are read, at either end.
//!
//! Pure. A line that lies within one chunk is a slice of it, not a copy. Nothing is held of a line
//! that is over the limit but its length, and reading goes on behind it. What the lines hold is
//! not looked at; blank ones are numbered and left out.

use bytes::{Bytes, BytesMut};

/// What some editors put before the first line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number in the text, from 1.
    pub number: u64,
    /// What it holds.
    pub content: Content,
}

/// What a line holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Its bytes, without its end and the blanks around it.
    Whole(Bytes),
    /// It was over the limit: how many bytes it had.
    TooLong(u64),
}

/// Takes chunks and gives lines.
#[derive(Debug)]
pub struct Lines {
    limit: usize,
    number: u64,
    chunk: Bytes,
    /// The beginning of a line that earlier chunks held.
    partial: BytesMut,
    /// The length so far of a line that is over the limit.
    too_long: Option<u64>,
}

impl Lines {
    /// Lines of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        let (chunk, partial) = (Bytes::new(), BytesMut::new());
        Self { limit, number: 0, chunk, partial, too_long: None }
    }

    /// Takes the next chunk; the one before must have been read to its end.
    pub fn push(&mut self, chunk: Bytes) {
        assert!(self.chunk.is_empty(), "a chunk is left");
        self.chunk = chunk;
    }

    /// The next line that has ended; `None` when another chunk is needed.
    pub fn next_ended(&mut self) -> Option<Line> {
        while let Some(end) = self.chunk.iter().position(|byte| *byte == b'\n') {
            let head = self.chunk.split_to(end);
            let _end = self.chunk.split_to(1);
            let line = self.complete(head);
            if line.is_some() {
                return line;
            }
        }
        let rest = std::mem::take(&mut self.chunk);
        self.hold(&rest);
        None
    }

    /// The last line, which nothing ended; to be asked once the text has.
    pub fn last(&mut self) -> Option<Line> {
        let rest = std::mem::take(&mut self.chunk);
        self.complete(rest)
    }

    /// How many lines have ended so far.
    pub fn count(&self) -> u64 {
        self.number
    }

    fn hold(&mut self, rest: &[u8]) {
        let length = self.partial.len() + rest.len();
        match &mut self.too_long {
            Some(length) => *length += rest.len() as u64,
            None if length > self.limit => {
                self.too_long = Some(length as u64);
                self.partial = BytesMut::new();
            }
            None => self.partial.extend_from_slice(rest),
        }
    }

    fn complete(&mut self, rest: Bytes) -> Option<Line> {
        self.number += 1;
        let whole = if self.partial.is_empty() && self.too_long.is_none() {
            rest
        } else {
            self.hold(&rest);
            std::mem::take(&mut self.partial).freeze()
        };
        let over = (whole.len() > self.limit).then_some(whole.len() as u64);
        let content = match self.too_long.take().or(over) {
            Some(length) => Content::TooLong(length),
            None => {
                let first = self.number == 1 && whole.starts_with(BYTE_ORDER_MARK);
                let text = whole.slice(if first { BYTE_ORDER_MARK.len() } else { 0 }..);
                let trimmed = text.slice_ref(text.trim_ascii());
                if trimmed.is_empty() {
                    return None;
                }
                Content::Whole(trimmed)
            }
        };
        Some(Line { number: self.number, content })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn read(chunks: impl IntoIterator<Item = Vec<u8>>, limit: usize) -> Vec<Line> {
        let mut lines = Lines::new(limit);
        let mut found = Vec::new();
        for chunk in chunks {
            lines.push(chunk.into());
            while let Some(line) = lines.next_ended() {
                found.push(line);
            }
        }
        found.extend(lines.last());
        found
    }

    fn whole(number: u64, text: &'static str) -> Line {
        Line { number, content: Content::Whole(Bytes::from_static(text.as_bytes())) }
    }

    #[test]
    fn lines_are_numbered_trimmed_and_blank_ones_left_out() {
        let text = "\u{feff}a\r\n\n  \r\nbc \nlast".as_bytes().to_vec();
        assert_eq!(read([text], 9), [whole(1, "a"), whole(4, "bc"), whole(5, "last")]);
        assert_eq!(read([b"\n\n".to_vec()], 9), []);
        assert_eq!(read([Vec::new()], 9), []);
    }

    #[test]
    fn a_line_over_the_limit_is_told_and_the_next_one_read() {
        let too_long = |number, length| Line { number, content: Content::TooLong(length) };
        let text = b"12345\n1234\n123456789\n12345".to_vec();
        let expected = [too_long(1, 5), whole(2, "1234"), too_long(3, 9), too_long(4, 5)];
        assert_eq!(read([text.clone()], 4), expected);
        assert_eq!(read(text.iter().map(|byte| vec![*byte]), 4), expected);
        // However long it is, nothing of it is held.
        let mut lines = Lines::new(4);
        for _ in 0..1_000 {
            lines.push(Bytes::from_static(&[b'x'; 1_000]));
            assert_eq!(lines.next_ended(), None);
            assert!(lines.partial.capacity() <= 4);
        }
        assert_eq!(lines.last(), Some(too_long(1, 1_000_000)));
    }

    proptest! {
        #[test]
        fn how_a_text_is_cut_into_chunks_changes_nothing(
            pieces in prop::collection::vec("[ab \n\r]{0,7}", 0..20),
            limit in 1..9usize,
        ) {
            let text: Vec<u8> = pieces.concat().into_bytes();
            let cut = pieces.iter().map(|piece| piece.clone().into_bytes());
            prop_assert_eq!(read(cut, limit), read([text], limit));
        }
    }
}
