//! What one caller writes at once.

/// A keyspace, by its position in [`Options::keyspaces`](super::Options::keyspaces).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Keyspace(pub(super) u8);

impl Keyspace {
    /// The keyspace at a position.
    pub const fn at(position: u8) -> Self {
        Self(position)
    }
}

/// Writes that become durable together or not at all; a later one of the same key wins.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) operations: Vec<Operation>,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) enum Operation {
    Put(Keyspace, Vec<u8>, Vec<u8>),
    Delete(Keyspace, Vec<u8>),
    /// A value that takes so many sequences.
    Append(Keyspace, u32, Vec<u8>),
}

/// What an operation costs in a queue beside its key and value.
const OPERATION_BYTES: usize = 64;

impl Batch {
    /// An empty batch; written, it tells when everything queued before it is durable.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key, at most 65,535 bytes long.
    pub fn put(&mut self, keyspace: Keyspace, key: Vec<u8>, value: Vec<u8>) -> &mut Self {
        assert!(!key.is_empty() && u16::try_from(key.len()).is_ok(), "a key of 1 to 65,535 bytes");
        self.bytes += OPERATION_BYTES + key.len() + value.len();
        self.operations.push(Operation::Put(keyspace, key, value));
        self
    }

    /// Removes a key, if it is there.
    pub fn delete(&mut self, keyspace: Keyspace, key: Vec<u8>) -> &mut Self {
        self.bytes += OPERATION_BYTES + key.len();
        self.operations.push(Operation::Delete(keyspace, key));
        self
    }

    /// Stores a value under the keyspace's next sequence, a big-endian `u64` that starts at 1.
    pub fn append(&mut self, keyspace: Keyspace, value: Vec<u8>) -> &mut Self {
        self.append_run(keyspace, 1, value)
    }

    /// Stores one value under the first of the keyspace's next `count` sequences and takes them
    /// all: it stands for so many.
    pub fn append_run(&mut self, keyspace: Keyspace, count: u32, value: Vec<u8>) -> &mut Self {
        assert!(count > 0, "a run of nothing");
        self.bytes += OPERATION_BYTES + value.len();
        self.operations.push(Operation::Append(keyspace, count, value));
        self
    }

    /// How many operations it holds.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}
