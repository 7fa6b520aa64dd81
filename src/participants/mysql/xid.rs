//! Branches' ids as XA has them: two texts of at most 64 bytes and a number.
//!
//! | part | what |
//! |---|---|
//! | `gtrid` | log id, epoch, physical id: 32, 16 and 16 hexadecimal digits, 64 bytes |
//! | `bqual` | `presume:<branch>:<identity of the database>`, at most 46 bytes |
//! | `formatID` | [`FORMAT`] |
//!
//! XA ids are the server's, while a participant is a database: `XA RECOVER` lists those of every
//! database, and only the identity tells which is whose.

use std::fmt;

use uuid::Uuid;

use crate::txn::{BranchIndex, Epoch, Gid, LogId, PhysicalId};

/// `PRES` in ASCII: tells our ids from those of other programs.
pub(super) const FORMAT: i64 = 0x5052_4553;

/// A branch in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Xid {
    pub(super) gid: Gid,
    /// The identity of the database.
    pub(super) database: Uuid,
}

/// What `XA RECOVER` lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Listed {
    /// A branch of Presume.
    Branch(Xid),
    /// Somebody else's, as `XA ROLLBACK` would take it.
    Other(String),
}

impl fmt::Display for Xid {
    /// As the arguments of an XA statement.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (gtrid, branch) = (gtrid(self.gid), self.gid.branch.0);
        write!(f, "{gtrid},'presume:{branch}:{}',{FORMAT}", self.database.simple())
    }
}

/// The part of an id that all branches of an execution share, as statements show it.
pub(super) fn gtrid(Gid { log, epoch, physical, .. }: Gid) -> String {
    format!("'{log}{:016x}{:016x}'", epoch.0, physical.0)
}

impl Listed {
    /// Reads a row of `XA RECOVER`.
    pub(super) fn read(format: i64, gtrid_length: usize, data: &[u8]) -> Self {
        let (gtrid, bqual) = data.split_at(gtrid_length.min(data.len()));
        match ours(format, gtrid, bqual) {
            Some(xid) => Self::Branch(xid),
            None => Self::Other(format!("{},{},{format}", quoted(gtrid), quoted(bqual))),
        }
    }
}

fn ours(format: i64, gtrid: &[u8], bqual: &[u8]) -> Option<Xid> {
    let (gtrid, bqual) = (str::from_utf8(gtrid).ok()?, str::from_utf8(bqual).ok()?);
    if format != FORMAT || gtrid.len() != 64 || !gtrid.is_ascii() {
        return None;
    }
    let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let log = LogId(Uuid::try_parse(&gtrid[..32]).ok()?);
    let epoch = Epoch(number(&gtrid[32..48])?);
    let physical = PhysicalId(number(&gtrid[48..])?);
    let (branch, database) = bqual.strip_prefix("presume:")?.split_once(':')?;
    let branch = BranchIndex(branch.parse().ok()?);
    let gid = Gid { log, epoch, physical, branch };
    Some(Xid { gid, database: Uuid::try_parse(database).ok()? })
}

/// A part of an id as XA statements take it.
fn quoted(part: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'\'' && *byte != b'\\';
    if part.iter().all(plain) {
        return format!("'{}'", String::from_utf8_lossy(part));
    }
    format!("X'{}'", hex::encode(part))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The bytes of an id as the server keeps them, with the length of its first part.
    fn kept(xid: &Xid) -> (usize, Vec<u8>) {
        let text = xid.to_string();
        let mut parts = text.split(',').map(|part| part.trim_matches('\''));
        let (gtrid, bqual) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        assert!(gtrid.len() <= 64 && bqual.len() <= 64, "{text}");
        (gtrid.len(), [gtrid, bqual].concat().into_bytes())
    }

    proptest! {
        #[test]
        fn every_branch_fits_and_is_read_back(
            log: u128, epoch: u64, physical: u64, branch: u16, database: u128,
        ) {
            let gid = Gid {
                log: LogId(Uuid::from_u128(log)),
                epoch: Epoch(epoch),
                physical: PhysicalId(physical),
                branch: BranchIndex(branch),
            };
            let xid = Xid { gid, database: Uuid::from_u128(database) };
            let (length, data) = kept(&xid);
            prop_assert_eq!(Listed::read(FORMAT, length, &data), Listed::Branch(xid));
            prop_assert!(matches!(Listed::read(1, length, &data), Listed::Other(_)));
        }

        #[test]
        fn no_id_of_another_makes_the_reader_panic(
            format: i64, length in 0_usize..200, data: Vec<u8>,
        ) {
            Listed::read(format, length, &data);
            Listed::read(FORMAT, length, &data);
        }
    }

    #[test]
    fn ids_of_others_are_shown_as_statements_take_them() {
        for (length, data, expected) in [
            (3, &b"abcde"[..], "'abc','de',7"),
            (1, b"'\\", "X'27',X'5c',7"),
            (2, b"\x00\xff", "X'00ff','',7"),
        ] {
            assert_eq!(Listed::read(7, length, data), Listed::Other(expected.to_owned()));
        }
    }
}
