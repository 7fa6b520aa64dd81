//! Where the lines come from: read on a thread of its own, each made ready to be sent.
//!
//! A line keeps its bytes; only a missing id is put in. What is wrong with a line is the server's
//! to say, in one place and one way; only what is too long to be held is refused here.

use std::collections::HashMap;
use std::io::Read;

use anyhow::{Context, ensure};
use bytes::{Bytes, BytesMut};
use presume::server::lines::{Content, Line, Lines};
use presume::txn::TxnId;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use xxhash_rust::xxh3::xxh3_64;

use super::results::Answered;

/// Longest line that is sent; the server's own limit is 64 KiB by default.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// Most lines without an id: how often each was there is remembered, in some 20 bytes.
const UNNAMED_COUNT_MAX: usize = 20_000_000;
/// Lines that are made ready ahead of the connection.
const AHEAD_COUNT_MAX: usize = 256;
const CHUNK_BYTES: usize = 64 * 1024;

/// A line on its way to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its number in the file, from 1.
    pub line: u64,
    /// Its own id, or the one made for it.
    pub id: String,
    /// What is sent, without an end of line.
    pub text: Bytes,
}

/// What the thread finds.
#[derive(Debug)]
pub enum Item {
    /// To be submitted.
    Job(Job),
    /// It has more bytes than can be sent.
    TooLong { line: u64, id: String, bytes: u64 },
    /// It was answered by an earlier run, with this outcome.
    Answered { outcome: &'static str },
    /// Reading failed; nothing follows.
    Failed(anyhow::Error),
}

/// Reads to the end, as fast as items are taken.
pub fn read(
    reader: impl Read + Send + 'static,
    series: &str,
    answered: Answered,
) -> mpsc::Receiver<Item> {
    let (sender, items) = mpsc::channel(AHEAD_COUNT_MAX);
    let source = Source { names: Names::new(series), answered };
    // Not one of the runtime's threads: those are waited for, and standard input may never end.
    std::thread::spawn(move || source.run(reader, &sender));
    items
}

struct Source {
    names: Names,
    answered: Answered,
}

impl Source {
    fn run(mut self, reader: impl Read, items: &mpsc::Sender<Item>) {
        let read = each_line(reader, LINE_BYTES_MAX, |line| {
            // Whoever does not listen any more has given up.
            Ok(items.blocking_send(self.item(line)?).is_ok())
        });
        if let Err(error) = read {
            let _ = items.blocking_send(Item::Failed(error));
        }
    }

    fn item(&mut self, line: Line) -> anyhow::Result<Item> {
        let Line { number: line, content } = line;
        let (id, text) = match content {
            Content::Whole(text) => self.names.name(line, text)?,
            Content::TooLong(bytes) => {
                let id = self.names.derive(line, format!("{bytes} bytes").as_bytes())?;
                return Ok(Item::TooLong { line, id, bytes });
            }
        };
        Ok(match self.answered.take(&id) {
            Some(outcome) => Item::Answered { outcome },
            None => Item::Job(Job { line, id, text }),
        })
    }
}

/// Gives each line that is not blank to `take`, until that says `false`.
pub fn each_line(
    mut reader: impl Read,
    limit: usize,
    mut take: impl FnMut(Line) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let mut lines = Lines::new(limit);
    loop {
        let mut chunk = BytesMut::zeroed(CHUNK_BYTES);
        let count = match reader.read(&mut chunk) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read.context("the lines cannot be read further")?,
        };
        chunk.truncate(count);
        lines.push(chunk.freeze());
        while let Some(line) = lines.next_ended() {
            if !take(line)? {
                return Ok(());
            }
        }
        if count == 0 {
            lines.last().map_or(Ok(true), take)?;
            return Ok(());
        }
    }
}

/// Makes ids for lines that have none.
///
/// An id is that of the same text again, in whatever run: it is made from the line's text, from
/// how many lines of the same text stand above it, and from the name of the series. So a line may be
/// put in or taken out elsewhere, and all others keep theirs.
struct Names {
    series: String,
    seen: HashMap<u64, u32>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
}

/// So that null is something that stands there.
fn present<'a, D: serde::Deserializer<'a>>(reader: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(reader).map(Some)
}

impl Names {
    fn new(series: &str) -> Self {
        Self { series: series.to_owned(), seen: HashMap::new() }
    }

    /// The id of a line, and the line with it.
    fn name(&mut self, line: u64, text: Bytes) -> anyhow::Result<(String, Bytes)> {
        let object = text.first() == Some(&b'{');
        let Some(named) = object.then(|| serde_json::from_slice::<Named>(&text).ok()).flatten()
        else {
            // The server says where it is broken.
            return Ok((self.derive(line, &text)?, text));
        };
        match named.id.map(RawValue::get) {
            None => {
                let id = self.derive(line, &text)?;
                let more = text[1..].trim_ascii_start().first() != Some(&b'}');
                let head = format!("{{\"id\":\"{id}\"{}", if more { "," } else { "" });
                Ok((id, [head.as_bytes(), &text[1..]].concat().into()))
            }
            Some("null") => {
                let id = self.derive(line, &text)?;
                let raw = named.id.expect("it was seen").get();
                let start = raw.as_ptr().addr() - text.as_ptr().addr();
                let (head, rest) = (&text[..start], &text[start + raw.len()..]);
                let text = [head, format!("\"{id}\"").as_bytes(), rest].concat();
                Ok((id, text.into()))
            }
            Some(raw) => match serde_json::from_str::<String>(raw) {
                Ok(id) if TxnId::new(&id).is_ok() => Ok((id, text)),
                _ => Ok((self.derive(line, &text)?, text)),
            },
        }
    }

    fn derive(&mut self, line: u64, text: &[u8]) -> anyhow::Result<String> {
        ensure!(
            self.seen.len() < UNNAMED_COUNT_MAX,
            "line {line} has no id, as {UNNAMED_COUNT_MAX} before it, the limit: give them ids"
        );
        let above = self.seen.entry(xxh3_64(text)).or_default();
        *above += 1;
        let mut hash = Sha256::new();
        for part in [self.series.as_bytes(), text, &above.to_le_bytes()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Ok(format!("line-{}", hex::encode(&hash.finalize()[..16])))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    /// Id and text of every line.
    fn jobs(text: &'static str, series: &str) -> Vec<(String, Bytes)> {
        let mut names = Names::new(series);
        let mut jobs = Vec::new();
        each_line(text.as_bytes(), 1_000, |line| {
            let Content::Whole(text) = line.content else { panic!("{line:?}") };
            jobs.push(names.name(line.number, text)?);
            Ok(true)
        })
        .unwrap();
        jobs
    }

    fn ids(text: &'static str) -> Vec<String> {
        jobs(text, "").into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn a_line_with_an_id_is_sent_as_it_is() {
        let text = r#"{"kind": "UPI", "id": "a\u0062", "x": [1.50]}"#;
        assert_eq!(jobs(text, ""), [("ab".to_owned(), Bytes::from_static(text.as_bytes()))]);
    }

    #[test]
    fn a_missing_id_is_put_in_and_nothing_else_changed() {
        let texts = "{\"kind\":\"UPI\"}\n{ }\n{\"a\": 1, \"id\" : null , \"b\": 1e2}\n";
        let jobs = jobs(texts, "");
        let sent: Vec<Value> =
            jobs.iter().map(|(_, text)| serde_json::from_slice(text).unwrap()).collect();
        let id = |n: usize| jobs[n].0.as_str();
        assert_eq!(sent[0], json!({"id": id(0), "kind": "UPI"}));
        assert_eq!(sent[1], json!({"id": id(1)}));
        assert_eq!(sent[2], json!({"id": id(2), "a": 1, "b": 100.0}));
        assert!(jobs[2].1.ends_with(b" , \"b\": 1e2}"), "{jobs:?}");
        assert!(TxnId::new(id(0)).is_ok());
    }

    #[test]
    fn what_the_server_must_refuse_reaches_it_as_it_is() {
        for text in
            ["{\"id\": 5}", "{\"id\": \"\"}", "{\"kind\": UPI}", "[]", "7", "{\"id\":1,\"id\":2}"]
        {
            let (id, sent) = jobs(text, "").remove(0);
            assert_eq!(sent, text);
            assert!(id.starts_with("line-"), "{text}: {id}");
        }
    }

    #[test]
    fn made_ids_stay_when_other_lines_come_and_go() {
        let (a, b) = ("{\"a\":1}", "{\"b\":1}");
        let first = ids("{\"a\":1}\n{\"b\":1}\n{\"a\":1}\n");
        assert_eq!(first.len(), 3);
        assert!(first[0] != first[2], "the second of the same text is another: {a} {b}");
        assert_eq!(ids("{\"a\":1}\n\n{\"c\":1}\n{\"a\":1}\n{\"b\":1}")[0], first[0]);
        assert_eq!(
            ids("{\"a\":1}\n\n{\"c\":1}\n{\"a\":1}\n{\"b\":1}")[2..],
            [first[2].clone(), first[1].clone()]
        );
        assert_ne!(jobs("{\"a\":1}", "2026-05")[0].0, first[0]);
        // Kept for good: another id would do a payment again.
        assert_eq!(first[0], "line-69a0b1fbac51d0fc0cec0d631cb0f8f6");
    }
}
