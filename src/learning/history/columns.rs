//! The header: which column stands where.

use super::HistoryError;
use super::cells::shown;
use super::record::Record;

/// Most columns of a file.
const COLUMNS_MAX: usize = 4_096;

/// What a file must and may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schema {
    pub columns: &'static [&'static str],
    pub required: &'static [&'static str],
}

/// Where the known columns stand, and what else there is.
#[derive(Debug)]
pub(super) struct Columns {
    /// By canonical index.
    pub positions: Vec<Option<usize>>,
    pub count: usize,
    pub missing: Vec<&'static str>,
    pub ignored: Vec<String>,
    header: Record,
}

impl Columns {
    /// Those of a file whose records are translated: `header` as they are then, `theirs` as it stands
    /// in the file, and what of it is not used.
    pub(super) fn translated(
        path: &str,
        schema: Schema,
        header: &Record,
        theirs: &Record,
        ignored: Vec<String>,
    ) -> Result<Self, HistoryError> {
        let columns = Self::new(path, schema, header)?;
        Ok(Self { count: theirs.len(), header: theirs.clone(), ignored, ..columns })
    }

    pub(super) fn new(path: &str, schema: Schema, header: &Record) -> Result<Self, HistoryError> {
        let bad = |detail: String| HistoryError::Header { path: path.to_owned(), detail };
        if header.len() > COLUMNS_MAX {
            return Err(bad(format!("{} columns, at most {COLUMNS_MAX} are read", header.len())));
        }
        let mut positions = vec![None; schema.columns.len()];
        let mut ignored: Vec<String> = Vec::new();
        for (position, name) in header.iter().enumerate() {
            let text = std::str::from_utf8(name).map_err(|_| {
                let shown = shown(name);
                bad(format!("column {} ({shown:?}) is not UTF-8 text", position + 1))
            })?;
            let name = text.trim();
            match schema.columns.iter().position(|known| *known == name) {
                Some(index) if positions[index].is_some() => {
                    return Err(bad(format!("column {name} stands there twice")));
                }
                Some(index) => positions[index] = Some(position),
                None => ignored.push(shown(name.as_bytes())),
            }
        }
        let absent = |name: &&'static str| {
            let index = schema.columns.iter().position(|known| known == name);
            index.is_none_or(|index| positions[index].is_none())
        };
        let required: Vec<_> = schema.required.iter().copied().filter(absent).collect();
        if !required.is_empty() {
            return Err(HistoryError::MissingColumns {
                path: path.to_owned(),
                missing: required.join(", "),
                required: schema.required.join(", "),
            });
        }
        let missing = schema.columns.iter().copied().filter(absent).collect();
        Ok(Self { positions, count: header.len(), missing, ignored, header: header.clone() })
    }

    /// Whether a row is the header again, as in files that were put one after another.
    pub(super) fn is_header(&self, record: &Record) -> bool {
        record.iter().eq(self.header.iter())
    }

    pub(super) fn has(&self, index: usize) -> bool {
        self.positions[index].is_some()
    }
}
