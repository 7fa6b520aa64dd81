#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Seek, SeekFrom, Write as _};
use std::path::Path;

use super::testing::{SmallDisk, copy};
use super::*;

const A: Keyspace = Keyspace::at(0);
const B: Keyspace = Keyspace::at(1);

fn options() -> Options {
    Options::new("test", 1, &["a", "b"])
}

fn open(path: &Path) -> Result<Store, Error> {
    Store::open(path, &options())
}

fn put(store: &Store, key: &str, value: &str) -> Result<Vec<u64>, Error> {
    let mut batch = Batch::new();
    batch.put(A, key.into(), value.into());
    store.submit(batch, Urgency::Urgent)?.wait()
}

fn message<T>(result: Result<T, Error>) -> String {
    result.err().expect("refused").to_string()
}

fn journal_of(store: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(store.join("data")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|e| e == "jnl")).max().unwrap()
}

fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
    let mut file = fs::File::options().write(true).open(file).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn what_was_acknowledged_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let id = store.id();
    put(&store, "k", "v").unwrap();
    assert_eq!(store.flushes(), 1);
    drop(store);
    let store = open(dir.path()).unwrap();
    assert_eq!(store.get(A, b"k").unwrap().as_deref(), Some(b"v".as_slice()));
    assert_eq!(store.get(B, b"k").unwrap(), None);
    assert_eq!(store.id(), id);
}

#[test]
fn a_crash_image_taken_after_the_acknowledgement_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let image = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    put(&store, "k", "v").unwrap();
    copy(dir.path(), image.path());
    let crashed = open(image.path()).unwrap();
    assert!(crashed.get(A, b"k").unwrap().is_some());
}

#[test]
fn of_two_writes_to_a_key_in_one_flush_the_later_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let mut batch = Batch::new();
    batch.put(A, b"x".into(), b"1".into()).put(A, b"x".into(), b"2".into());
    batch.put(A, b"y".into(), b"1".into()).delete(A, b"y".into());
    batch.delete(A, b"z".into()).put(A, b"z".into(), b"3".into());
    store.submit(batch, Urgency::Urgent).unwrap().wait().unwrap();
    assert_eq!(store.get(A, b"x").unwrap().as_deref(), Some(b"2".as_slice()));
    assert_eq!(store.get(A, b"y").unwrap(), None);
    assert_eq!(store.get(A, b"z").unwrap().as_deref(), Some(b"3".as_slice()));
}

#[test]
fn sequences_follow_durability_without_gaps_and_are_never_reused() {
    let dir = tempfile::tempdir().unwrap();
    let append = |store: &Store| {
        let mut batch = Batch::new();
        batch.append(B, b"row".into()).append(B, b"row".into());
        store.submit(batch, Urgency::Urgent).unwrap()
    };
    {
        let store = open(dir.path()).unwrap();
        let writes: Vec<_> = (0..10).map(|_| append(&store)).collect();
        let sequences: Vec<u64> = writes.into_iter().flat_map(|w| w.wait().unwrap()).collect();
        assert_eq!(sequences, (1..=20).collect::<Vec<_>>());
        let mut batch = Batch::new();
        for sequence in 1..=20_u64 {
            batch.delete(B, sequence.to_be_bytes().to_vec());
        }
        store.submit(batch, Urgency::Urgent).unwrap().wait().unwrap();
    }
    let store = open(dir.path()).unwrap();
    assert_eq!(append(&store).wait().unwrap(), [21, 22]);
    let keys: Vec<_> = store.prefix(B, b"").map(|entry| entry.unwrap().0).collect();
    assert_eq!(keys, [21_u64.to_be_bytes().to_vec(), 22_u64.to_be_bytes().to_vec()]);
}

#[test]
fn a_lazy_write_shares_the_flush_of_the_next_urgent_one() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { lazy_flush_after: Duration::from_hours(1), ..options() };
    let store = Store::open(dir.path(), &options).unwrap();
    let mut batch = Batch::new();
    batch.put(A, b"lazy".into(), b"1".into());
    let lazy = store.submit(batch, Urgency::Lazy).unwrap();
    put(&store, "urgent", "1").unwrap();
    lazy.wait().unwrap();
    assert_eq!((store.flushes(), store.writes()), (1, 2));
}

#[test]
fn a_lazy_write_alone_is_flushed_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let mut batch = Batch::new();
    batch.put(A, b"lazy".into(), b"1".into());
    store.submit(batch, Urgency::Lazy).unwrap().wait().unwrap();
    assert_eq!(store.flushes(), 1);
}

#[test]
fn a_snapshot_sees_what_was_queued_before_it_and_nothing_later() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { lazy_flush_after: Duration::from_hours(1), ..options() };
    let store = Store::open(dir.path(), &options).unwrap();
    let lazy = |key: &str| {
        let mut batch = Batch::new();
        batch.put(A, key.into(), b"1".into());
        store.submit(batch, Urgency::Lazy).unwrap()
    };
    let before = lazy("before");
    let snapshot = store.snapshot();
    let after = lazy("after");
    let snapshot = queue::block_on(snapshot).unwrap();
    put(&store, "urgent", "1").unwrap();
    before.wait().unwrap();
    after.wait().unwrap();
    let keys: Vec<_> = snapshot.entries(A).map(|entry| entry.unwrap().0).collect();
    assert_eq!(keys, [b"before".to_vec()]);
}

#[test]
fn closing_flushes_what_is_queued_and_refuses_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { lazy_flush_after: Duration::from_hours(1), ..options() };
    let store = Store::open(dir.path(), &options).unwrap();
    let mut batch = Batch::new();
    batch.put(A, b"lazy".into(), b"1".into());
    let lazy = store.submit(batch, Urgency::Lazy).unwrap();
    store.close().unwrap();
    lazy.wait().unwrap();
    assert!(!store.healthy());
    assert!(matches!(put(&store, "k", "v"), Err(Error::Closed)));
    drop(store);
    assert!(open(dir.path()).unwrap().get(A, b"lazy").unwrap().is_some());
}

#[test]
fn a_full_queue_refuses_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let far = Duration::from_hours(1);
    let options = Options { queue_count_max: 2, lazy_flush_after: far, ..options() };
    let store = Store::open(dir.path(), &options).unwrap();
    let lazy = || store.submit(Batch::new(), Urgency::Lazy);
    let (_first, _second) = (lazy().unwrap(), lazy().unwrap());
    assert_eq!(message(lazy()), "2 writes are waiting, the limit is 2");
    let mut big = Batch::new();
    big.put(A, b"k".into(), vec![0; 65 << 20]);
    let options = Options { queue_count_max: 9, ..options };
    let other = tempfile::tempdir().unwrap();
    let store = Store::open(other.path(), &options).unwrap();
    assert!(matches!(store.submit(big, Urgency::Urgent), Err(Error::Full { .. })));
}

#[test]
fn a_writer_that_panics_strands_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { lazy_flush_after: Duration::from_hours(1), ..options() };
    let store = Store::open(dir.path(), &options).unwrap();
    let no_such_keyspace = Keyspace::at(30);
    let mut bad = Batch::new();
    bad.append(no_such_keyspace, b"row".into());
    let waiting = store.submit(Batch::new(), Urgency::Lazy).unwrap();
    let bad = store.submit(bad, Urgency::Urgent).unwrap();
    for write in [waiting, bad] {
        assert!(matches!(write.wait(), Err(Error::Poisoned { .. } | Error::Closed)));
    }
    assert!(store.close().is_err());
    assert!(matches!(put(&store, "k", "v"), Err(Error::Poisoned { .. })));
}

#[test]
fn an_announced_writer_that_never_comes_holds_up_nobody_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let _never_writes = store.announce();
    for n in 0..20 {
        put(&store, &format!("{n}"), "v").unwrap();
    }
    assert_eq!(store.writes(), 20);
}

#[test]
fn a_flush_waits_for_announced_writers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let flushes = store.flushes();
    let announced: Vec<_> = (0..50).map(|_| store.announce()).collect();
    let mut writes = Vec::new();
    for (n, announced) in announced.into_iter().enumerate() {
        let mut batch = Batch::new();
        batch.put(Keyspace::at(0), format!("{n}").into_bytes(), b"v".to_vec());
        writes.push(store.submit(batch, Urgency::Urgent).unwrap());
        drop(announced);
    }
    for write in writes {
        write.wait().unwrap();
    }
    // One, unless the machine stopped between two writes for longer than is waited.
    assert!(store.flushes() - flushes <= 5, "{} flushes", store.flushes() - flushes);
}

#[test]
fn a_store_in_use_is_refused_by_name_of_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path()).unwrap();
    let text = message(open(dir.path()));
    assert!(text.contains("in use by another process"), "{text}");
    assert!(text.contains(&*dir.path().to_string_lossy()), "{text}");
}

#[test]
fn a_folder_of_something_else_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.doc"), "years of work").unwrap();
    let text = message(open(dir.path()));
    assert!(text.contains("not a store of ours") && text.contains("thesis.doc"), "{text}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_store_of_another_kind_or_a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    let other = Options { kind: "other", ..options() };
    let text = message(Store::open(dir.path(), &other));
    assert!(text.contains("is a test, not a other"), "{text}");
    let identity = dir.path().join("presume-store.json");
    let newer = fs::read_to_string(&identity).unwrap().replace("\"version\": 1", "\"version\": 2");
    fs::write(&identity, newer).unwrap();
    let text = message(open(dir.path()));
    assert!(text.contains("has format 2, this program knows up to 1"), "{text}");
}

#[test]
fn an_interrupted_creation_starts_over() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    let identity = dir.path().join("presume-store.json");
    let creating = fs::read_to_string(&identity).unwrap().replace("ready", "creating");
    fs::write(&identity, creating).unwrap();
    fs::remove_file(dir.path().join("data").join("version")).unwrap();
    put(&open(dir.path()).unwrap(), "k", "v").unwrap();
}

#[test]
fn missing_data_and_a_damaged_identity_are_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    fs::remove_dir_all(dir.path().join("data")).unwrap();
    assert!(matches!(open(dir.path()), Err(Error::Corrupt { .. })));
    fs::write(dir.path().join("presume-store.json"), "{").unwrap();
    assert!(matches!(open(dir.path()), Err(Error::Corrupt { .. })));
}

#[test]
fn a_torn_last_flush_is_dropped_and_the_rest_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    put(&store, "kept", "v").unwrap();
    put(&store, "torn", "v").unwrap();
    let image = tempfile::tempdir().unwrap();
    copy(dir.path(), image.path());
    let journal = journal_of(image.path());
    let end = super::journal::survey(&image.path().join("data")).unwrap()[0].last_end;
    fs::File::options().write(true).open(&journal).unwrap().set_len(end - 5).unwrap();
    let store = open(image.path()).unwrap();
    assert!(store.get(A, b"kept").unwrap().is_some());
    assert!(store.get(A, b"torn").unwrap().is_none());
    put(&store, "more", "v").unwrap();
}

/// Whatever byte of the journal is damaged, either everything but the last flush is there, or the
/// store refuses to open, now and later. It never panics and never loses silently.
#[test]
fn damage_anywhere_in_the_journal_is_never_silent_loss() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    for key in ["k1", "k2", "k3", "k4"] {
        put(&store, key, "value").unwrap();
    }
    let end = super::journal::survey(&dir.path().join("data")).unwrap()[0].last_end;
    let (mut refused, mut opened) = (0, 0);
    for at in (0..end).step_by(23) {
        let image = tempfile::tempdir().unwrap();
        copy(dir.path(), image.path());
        overwrite(&journal_of(image.path()), at, b"\xa5\x5a\xa5");
        match open(image.path()) {
            Ok(store) => {
                opened += 1;
                for key in ["k1", "k2", "k3"] {
                    let value = store.get(A, key.as_bytes()).unwrap();
                    assert_eq!(value.as_deref(), Some(b"value".as_slice()), "{key}, byte {at}");
                }
            }
            Err(error) => {
                refused += 1;
                assert!(matches!(error, Error::Corrupt { .. }), "byte {at}: {error}");
                assert!(open(image.path()).is_err(), "byte {at}: opened the second time");
            }
        }
    }
    assert!(refused > opened && opened > 0, "{refused} refused, {opened} opened");
}

#[test]
fn damage_in_any_other_file_is_refused_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = open(dir.path()).unwrap();
        for key in 0..200 {
            put(&store, &format!("{key:04}"), "value").unwrap();
        }
        store.0.reader.keyspace(A).rotate_memtable_and_wait().unwrap();
    }
    let files = files_below(&dir.path().join("data"));
    let files = files.iter().filter(|f| f.extension().is_none_or(|e| e != "jnl"));
    for file in files {
        for damage in [b"".as_slice(), b"garbage that is none of ours"] {
            let image = tempfile::tempdir().unwrap();
            copy(dir.path(), image.path());
            let target = image.path().join(file.strip_prefix(dir.path()).unwrap());
            fs::write(&target, damage).unwrap();
            if let Ok(store) = open(image.path()) {
                for entry in store.prefix(A, b"") {
                    let Ok((_, value)) = entry else { break };
                    assert_eq!(value, b"value");
                }
            }
        }
    }
}

fn files_below(path: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files.extend(files_below(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}

#[test]
fn a_run_takes_as_many_sequences_as_it_stands_for_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let append = |store: &Store, counts: &[u32]| {
        let mut batch = Batch::new();
        for count in counts {
            batch.append_run(B, *count, b"run".into());
        }
        store.submit(batch, Urgency::Urgent).unwrap().wait().unwrap()
    };
    let store = open(dir.path()).unwrap();
    assert_eq!(append(&store, &[3, 1, 128]), [1, 4, 5]);
    assert_eq!(append(&store, &[2]), [133]);
    drop(store);
    let store = open(dir.path()).unwrap();
    assert_eq!(append(&store, &[1, 1]), [135, 136]);
    let last = |low: u64, high: u64| {
        let entry = store.last_within(B, &low.to_be_bytes(), &high.to_be_bytes()).unwrap();
        entry.map(|(key, _)| u64::from_be_bytes(key.try_into().unwrap()))
    };
    assert_eq!(
        [last(0, 3), last(0, 4), last(6, 132), last(1, 999)],
        [Some(1), Some(4), None, Some(136)]
    );
}

#[test]
fn of_many_writes_to_few_keys_in_one_flush_the_last_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let mut batch = Batch::new();
    for n in 0..2_000_u32 {
        let key = (n % 7).to_be_bytes().to_vec();
        // The same key in two keyspaces is two keys.
        batch.put(A, key.clone(), n.to_be_bytes().to_vec());
        if n % 2 == 0 {
            batch.delete(B, key)
        } else {
            batch.put(B, key, b"odd".into())
        };
    }
    store.submit(batch, Urgency::Urgent).unwrap().wait().unwrap();
    for key in 0..7_u32 {
        let last = (0..2_000).rev().find(|n| n % 7 == key).unwrap();
        let value = store.get(A, &key.to_be_bytes()).unwrap().unwrap();
        assert_eq!(value, last.to_be_bytes(), "{key}");
        assert_eq!(store.get(B, &key.to_be_bytes()).unwrap().is_some(), last % 2 == 1, "{key}");
    }
}

#[test]
fn unreadable_records_are_located() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let text = store.record_error(B, &7_u64.to_be_bytes(), "no JSON").to_string();
    assert!(text.starts_with("record 7 in keyspace b of store"), "{text}");
    let text = store.record_error(B, b"k1", "no JSON").to_string();
    assert!(text.starts_with("record k1 in keyspace b"), "{text}");
}

#[test]
fn a_full_disk_poisons_the_store_and_loses_nothing_acknowledged() {
    let Some(disk) = SmallDisk::mount("2m") else { return };
    let folder = disk.path().join("store");
    let store = open(&folder).unwrap();
    let value = "x".repeat(10_000);
    let mut acknowledged = 0;
    let error = loop {
        match put(&store, &format!("{acknowledged:06}"), &value) {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(acknowledged > 50, "{acknowledged}");
    assert!(matches!(error, Error::Poisoned { .. }), "{error}");
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert!(!store.healthy());
    assert!(matches!(put(&store, "later", "v"), Err(Error::Poisoned { .. })));
    assert!(matches!(store.close(), Err(Error::Poisoned { .. })));
    drop(store);
    disk.grow("64m");
    let store = open(&folder).unwrap();
    for key in 0..acknowledged {
        assert!(store.get(A, format!("{key:06}").as_bytes()).unwrap().is_some(), "{key}");
    }
    put(&store, "later", "v").unwrap();
}

#[test]
fn a_disk_too_small_for_a_store_is_an_error() {
    let Some(disk) = SmallDisk::mount("16k") else { return };
    assert!(open(&disk.path().join("store")).is_err());
}
