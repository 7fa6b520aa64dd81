//! Where results go, and what an earlier run left there.
//!
//! A results file holds a line for each line that was answered, in the order of the answers. Only
//! an outcome is final: when a run goes on, problems of the run before are taken out, so that they
//! are tried again and the file ends with one line each.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use presume::server::lines::Content;
use presume::txn::Outcome;
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_128;

use super::source::each_line;

/// Longest result that is read again: an answer has less than two kilobytes.
const RESULT_BYTES_MAX: usize = 1 << 20;
/// How each begins.
pub const BEGINNING: &[u8] = b"{\"line\":";

/// Outcomes by id. Of ids, hashes are kept: 16 bytes each however long they are.
#[derive(Debug, Default)]
pub struct Answered(HashMap<u128, (u32, Outcome)>);

impl Answered {
    fn add(&mut self, id: &str, outcome: Outcome) {
        self.0.entry(xxh3_128(id.as_bytes())).or_insert((0, outcome)).0 += 1;
    }

    /// The outcome under an id, as often as there are results with it.
    pub fn take(&mut self, id: &str) -> Option<&'static str> {
        let (left, outcome) = self.0.get_mut(&xxh3_128(id.as_bytes()))?;
        *left = left.checked_sub(1)?;
        Some(outcome.as_str())
    }
}

/// Takes results, a line each.
pub struct Results {
    writer: BufWriter<Box<dyn Write>>,
    name: String,
    /// Held so that no second run writes there; the file is synced in the end.
    file: Option<File>,
}

impl Results {
    /// Results on standard output.
    pub fn stdout() -> Self {
        let writer: Box<dyn Write> = Box::new(std::io::stdout());
        Self { writer: BufWriter::new(writer), name: "standard output".into(), file: None }
    }

    /// Results at the end of a file, and what stands there already.
    pub fn open(path: &Path) -> anyhow::Result<(Self, Answered)> {
        let name = path.display().to_string();
        let cannot = || format!("cannot write {name}");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let special = std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
        if special {
            let file = OpenOptions::new().write(true).open(path).with_context(cannot)?;
            let writer: Box<dyn Write> = Box::new(file);
            let writer = BufWriter::new(writer);
            return Ok((Self { writer, name, file: None }, Answered::default()));
        }
        let mut file = options.open(path).with_context(cannot)?;
        lock(&file, &name)?;
        let found = Found::read(&file, &name)?;
        if found.problems > 0 {
            file = found.without_problems(&file, path).with_context(cannot)?;
        } else {
            file.set_len(found.whole_bytes).with_context(cannot)?;
        }
        file.seek(SeekFrom::End(0)).with_context(cannot)?;
        let writer: Box<dyn Write> = Box::new(file.try_clone().with_context(cannot)?);
        Ok((Self { writer: BufWriter::new(writer), name, file: Some(file) }, found.answered))
    }

    /// Takes a line without its end.
    pub fn write(&mut self, line: &str) -> anyhow::Result<()> {
        let written = self.writer.write_all(line.as_bytes());
        let written = written.and_then(|()| self.writer.write_all(b"\n"));
        written.with_context(|| format!("cannot write to {}", self.name))
    }

    /// Hands everything to the system.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.writer.flush().with_context(|| format!("cannot write to {}", self.name))
    }

    /// Makes everything durable.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.flush()?;
        let synced = self.file.as_ref().map_or(Ok(()), File::sync_all);
        synced.with_context(|| format!("cannot sync {}", self.name))
    }
}

fn lock(file: &File, name: &str) -> anyhow::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => bail!("another run writes to {name}"),
        // Some file systems know no locks.
        Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// What stands in a results file.
#[derive(Default)]
struct Found {
    answered: Answered,
    /// Lines that are to be tried again.
    problems: u64,
    /// Up to where lines are whole: the last may be torn.
    whole_bytes: u64,
}

#[derive(Deserialize)]
struct Told {
    #[serde(rename = "line")]
    _line: u64,
    id: String,
    #[serde(default)]
    outcome: Option<Outcome>,
}

impl Told {
    /// The outcome that ends it, if it has one.
    fn read(text: &[u8]) -> Option<(String, Option<Outcome>)> {
        let told: Self = serde_json::from_slice(text).ok()?;
        Some((told.id, told.outcome.filter(|outcome| *outcome != Outcome::InDoubt)))
    }
}

impl Found {
    fn read(file: &File, name: &str) -> anyhow::Result<Self> {
        let mut found = Self { whole_bytes: whole_bytes(file, name)?, ..Self::default() };
        let mut whole = file;
        whole.seek(SeekFrom::Start(0))?;
        each_line(whole.take(found.whole_bytes), RESULT_BYTES_MAX, |line| {
            let told = match &line.content {
                Content::Whole(text) => Told::read(text),
                Content::TooLong(_) => None,
            };
            let Some((id, outcome)) = told else {
                bail!("line {} of {name} is not a result: is it another file?", line.number);
            };
            match outcome {
                Some(outcome) => found.answered.add(&id, outcome),
                None => found.problems += 1,
            }
            Ok(true)
        })?;
        Ok(found)
    }

    /// Puts a file with the outcomes alone in its place.
    fn without_problems(&self, file: &File, path: &Path) -> anyhow::Result<File> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".tmp");
        let mut options = OpenOptions::new();
        let kept = options.read(true).write(true).create(true).truncate(true).open(&aside)?;
        lock(&kept, &aside.to_string_lossy())?;
        let mut writer = BufWriter::new(&kept);
        let mut whole = file;
        whole.seek(SeekFrom::Start(0))?;
        each_line(whole.take(self.whole_bytes), RESULT_BYTES_MAX, |line| {
            if let Content::Whole(text) = line.content
                && let Some((_, Some(_))) = Told::read(&text)
            {
                writer.write_all(&text)?;
                writer.write_all(b"\n")?;
            }
            Ok(true)
        })?;
        writer.flush()?;
        drop(writer);
        kept.sync_all()?;
        std::fs::rename(&aside, path)?;
        Ok(kept)
    }
}

/// Up to behind the last end of a line. What follows there must be the beginning of a result: of
/// another file nothing is cut off.
fn whole_bytes(mut file: &File, name: &str) -> anyhow::Result<u64> {
    let length = file.seek(SeekFrom::End(0))?;
    let start = length.saturating_sub(RESULT_BYTES_MAX as u64);
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    let whole = end.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let torn = &end[whole..];
    let begun = torn.starts_with(BEGINNING) || BEGINNING.starts_with(torn);
    // A power cut may leave what was never written.
    let begun = begun || torn.iter().all(|byte| *byte == 0);
    ensure!(
        begun && (whole > 0 || start == 0),
        "the end of {name} is no result: is it another file?"
    );
    Ok(start + whole as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn reopened(text: &str) -> (anyhow::Result<Answered>, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        std::fs::write(&path, text).unwrap();
        let answered = Results::open(&path).map(|(mut results, answered)| {
            results.write("{\"more\":1}").unwrap();
            results.finish().unwrap();
            answered
        });
        (answered, std::fs::read_to_string(&path).unwrap())
    }

    const A: &str = "{\"line\":1,\"id\":\"a\",\"outcome\":\"committed\"}\n";
    const B: &str = "{\"line\":2,\"id\":\"b\",\"outcome\":\"aborted\",\"reasons\":[]}\n";
    const BAD: &str = "{\"line\":3,\"id\":\"c\",\"status\":422,\"problem\":{}}\n";
    const DOUBT: &str = "{\"line\":4,\"id\":\"d\",\"outcome\":\"in_doubt\"}\n";
    const MORE: &str = "{\"more\":1}\n";

    #[test]
    fn outcomes_are_known_again_each_as_often_as_it_stands_there() {
        let (answered, text) = reopened(&[A, B, A].concat());
        let mut answered = answered.unwrap();
        let taken = ["a", "b", "a", "a", "c"].map(|id| answered.take(id));
        let expected = [Some("committed"), Some("aborted"), Some("committed"), None, None];
        assert_eq!(taken, expected);
        assert_eq!(text, [A, B, A, MORE].concat());
    }

    #[test]
    fn a_torn_last_line_is_cut_off() {
        for torn in [
            "\0\0\0",
            "{\"line\":2,\"id\":\"b\",\"outc",
            "{\"line\":2,\"id\":\"b\",\"outcome\":\"aborted\"}",
        ] {
            let (answered, text) = reopened(&[A, torn].concat());
            assert_eq!(answered.unwrap().take("b"), None);
            assert_eq!(text, [A, MORE].concat());
        }
        assert_eq!(reopened("{\"li").1, MORE);
        assert_eq!(reopened("").1, MORE);
    }

    #[test]
    fn problems_are_taken_out_to_be_tried_again() {
        let (answered, text) = reopened(&[A, BAD, DOUBT, B, "{\"lin"].concat());
        let mut answered = answered.unwrap();
        assert_eq!(["a", "c", "d"].map(|id| answered.take(id)), [Some("committed"), None, None]);
        assert_eq!(text, [A, B, MORE].concat());
    }

    #[test]
    fn another_file_is_left_as_it_is() {
        let transactions = "{\"id\":\"a\",\"kind\":\"UPI\"}\n{\"id\":\"b\"}\n";
        let (answered, text) = reopened(transactions);
        let error = format!("{:#}", answered.unwrap_err());
        assert!(error.contains("line 1") && error.contains("not a result"), "{error}");
        assert_eq!(text, transactions);
        for other in ["{\"id\":\"a\"}", "{\"line\":1,\"id\":\"a\"}\n# my notes"] {
            let (answered, text) = reopened(other);
            let error = format!("{:#}", answered.unwrap_err());
            assert!(error.contains("end of") && error.contains("no result"), "{error}");
            assert_eq!(text, other);
        }
    }

    #[test]
    fn two_runs_do_not_write_to_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        let first = Results::open(&path).unwrap();
        let error = Results::open(&path).err().unwrap().to_string();
        assert!(error.contains("another run"), "{error}");
        drop(first);
        assert!(Results::open(&path).is_ok());
    }
}
