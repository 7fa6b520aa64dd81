//! Which of the two a file is: one request, or a transaction a line.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use anyhow::{Context, ensure};
use serde::de::IgnoredAny;

use super::source::{LINE_BYTES_MAX, each_line};

/// A file or standard input, as far as it was read to find out what it is.
pub struct Input {
    head: Vec<u8>,
    rest: Box<dyn Read + Send>,
    /// To be read twice, if it can be.
    file: Option<File>,
}

impl Input {
    /// Opens a file; `-` is standard input.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self { head: Vec::new(), rest: Box::new(std::io::stdin()), file: None });
        }
        let shown = || format!("cannot open {}", path.display());
        let file = File::open(path).with_context(shown)?;
        let again = if file.metadata().with_context(shown)?.is_file() {
            Some(File::open(path).with_context(shown)?)
        } else {
            None
        };
        Ok(Self { head: Vec::new(), rest: Box::new(file), file: again })
    }

    /// Whether it holds a transaction a line: its name says so, or more follows a first line that is
    /// an object by itself.
    pub fn is_lines(&mut self, path: &Path, bytes_max: u64) -> anyhow::Result<bool> {
        let extension = path.extension().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
        if ["jsonl", "ndjson"].iter().any(|name| extension.eq_ignore_ascii_case(name)) {
            return Ok(true);
        }
        let mut chunk = vec![0; 16 * 1024];
        loop {
            let text = self.head.trim_ascii_start();
            if let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let (first, more) = text.split_at(end);
                if !is_object(first) || !more.trim_ascii_start().is_empty() {
                    return Ok(is_object(first));
                }
            }
            let count = self.rest.read(&mut chunk).context("cannot read the request")?;
            if count == 0 {
                return Ok(false);
            }
            self.head.extend_from_slice(&chunk[..count]);
            ensure!(
                self.head.len() as u64 <= bytes_max,
                "{} has more than {bytes_max} bytes before its first line ends",
                path.display()
            );
        }
    }

    /// How many lines there are, if that can be known before they are read.
    pub fn count(&self) -> anyhow::Result<Option<u64>> {
        let Some(file) = &self.file else { return Ok(None) };
        let mut count = 0;
        each_line(file, LINE_BYTES_MAX, |_| {
            count += 1;
            Ok(true)
        })?;
        Ok(Some(count))
    }

    pub fn into_reader(self) -> impl Read + Send + 'static {
        Cursor::new(self.head).chain(self.rest)
    }
}

fn is_object(text: &[u8]) -> bool {
    text.first() == Some(&b'{') && serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn check(name: &str, text: &str, lines: bool) {
        let rest = Box::new(Cursor::new(text.to_owned().into_bytes()));
        let mut input = Input { head: Vec::new(), rest, file: None };
        assert_eq!(input.is_lines(Path::new(name), 1 << 20).unwrap(), lines, "{name}: {text:?}");
        let mut read = String::new();
        input.into_reader().read_to_string(&mut read).unwrap();
        assert_eq!(read, text, "nothing is lost by looking");
    }

    #[test]
    fn lines_are_told_from_one_request() {
        check("-", "{\"a\": 1}\n{\"a\": 2}\n", true);
        check("-", "\n\n{\"a\": 1}\r\n\n not json", true);
        check("transfer.json", "{\"a\": 1}\n{\"a\": 2}", true);
        check("-", "{\"a\": 1}", false);
        check("-", "{\"a\": 1}\n\n", false);
        check("transfer.json", "{\n  \"a\": 1\n}\n", false);
        check("-", "", false);
        check("-", "[1]\n[2]\n", false);
        check("F.jsonl", "{\"a\": 1}", true);
        check("F.NDJSON", "", true);
        let long = format!("{{\"a\": \"{}\"}}\n{{}}\n", "x".repeat(100_000));
        check("-", &long, true);
    }

    #[test]
    fn what_has_no_first_line_within_the_limit_is_refused() {
        let rest = Box::new(std::io::repeat(b'x'));
        let mut input = Input { head: Vec::new(), rest, file: None };
        let error = input.is_lines(Path::new("-"), 1 << 20).unwrap_err().to_string();
        assert!(error.contains("1048576"), "{error}");
    }
}
