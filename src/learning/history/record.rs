//! One record of a file: its fields as bytes, in buffers that are used again and again.

/// Fields by position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// All fields, one after another; only the first `ends.last()` bytes count.
    pub(super) bytes: Vec<u8>,
    /// Where each field ends.
    pub(super) ends: Vec<usize>,
}

impl Record {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    pub(super) fn push(&mut self, field: &[u8]) {
        self.bytes.extend_from_slice(field);
        self.ends.push(self.bytes.len());
    }

    /// Number of fields.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of all fields together.
    pub(super) fn total_bytes(&self) -> usize {
        self.ends.last().copied().unwrap_or_default()
    }

    pub(super) fn get(&self, position: usize) -> Option<&[u8]> {
        let end = *self.ends.get(position)?;
        let start = if position == 0 { 0 } else { self.ends[position - 1] };
        self.bytes.get(start..end)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).filter_map(|position| self.get(position))
    }
}
