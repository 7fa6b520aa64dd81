//! Our tables in the participant's database, and the statements on them.
//!
//! | table | key | what |
//! |---|---|---|
//! | `presume_server` | one row | the identity of this database |
//! | `presume_epoch` | log id | the highest epoch that was claimed, and by which process |
//! | `presume_marker` | log id, epoch, physical id, branch | `committed` by the branch itself, or `aborted`: a tombstone |
//!
//! A branch inserts its marker in its own transaction, so whoever reads `committed` knows that the
//! branch is. A tombstone under the same key makes a branch that comes later fail (1062). So does
//! an epoch that is not the claimed one: the marker's `claimed_by` is then null, which the column
//! refuses (1048). Keys are numbers of ours and stand in the SQL as literals.

use uuid::Uuid;

use crate::participants::EndedBelow;
use crate::txn::{Epoch, Gid, LogId};

/// Version of the tables.
pub(super) const VERSION: i64 = 1;

/// Makes everything that is missing; may be repeated.
pub(super) const CREATE: &str = "\
CREATE TABLE IF NOT EXISTS presume_server (
    one TINYINT NOT NULL PRIMARY KEY,
    id BINARY(16) NOT NULL,
    version INT NOT NULL
) ENGINE = InnoDB;
CREATE TABLE IF NOT EXISTS presume_epoch (
    log_id BINARY(16) NOT NULL PRIMARY KEY,
    epoch BIGINT UNSIGNED NOT NULL,
    claimed_by BINARY(16) NOT NULL,
    claimed_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
) ENGINE = InnoDB;
CREATE TABLE IF NOT EXISTS presume_marker (
    log_id BINARY(16) NOT NULL,
    epoch BIGINT UNSIGNED NOT NULL,
    physical BIGINT UNSIGNED NOT NULL,
    branch SMALLINT UNSIGNED NOT NULL,
    ended ENUM('committed', 'aborted') NOT NULL,
    claimed_by BINARY(16) NOT NULL,
    ended_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (log_id, epoch, physical, branch)
) ENGINE = InnoDB;
INSERT IGNORE INTO presume_server (one, id, version)
    VALUES (1, UNHEX(REPLACE(UUID(), '-', '')), 1);
";

/// Every table of ours, and its engine.
pub(super) const TABLES: &str = "\
SELECT table_name, engine FROM information_schema.tables
WHERE table_schema = DATABASE()
  AND table_name IN ('presume_server', 'presume_epoch', 'presume_marker')";

/// The most markers removed in one message: 140 kB of SQL, below what a server takes.
pub(super) const REMOVED_MAX: usize = 1_000;

/// How many tables there are to be.
pub(super) const TABLE_COUNT: usize = 3;

/// Tables whose changes no transaction holds together.
pub(super) const NOT_TRANSACTIONAL: &str = "\
SELECT table_name, engine FROM information_schema.tables
WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' AND engine <> 'InnoDB'";

/// Identity and version.
pub(super) const SERVER: &str = "SELECT id, version FROM presume_server";

/// What our user must be allowed to do, one statement a right, to be prepared and never executed.
pub(super) const RIGHTS: [&str; 5] = [
    "SELECT id FROM presume_server",
    "SELECT epoch FROM presume_epoch",
    "INSERT INTO presume_epoch (log_id, epoch, claimed_by) VALUES ('', 0, '') \
     ON DUPLICATE KEY UPDATE epoch = 0",
    "INSERT INTO presume_marker (log_id, epoch, physical, branch, ended, claimed_by) \
     VALUES ('', 0, 0, 0, 'aborted', '')",
    "DELETE FROM presume_marker WHERE ended = 'aborted'",
];

/// Takes the epoch unless a later one, or another process, has it.
pub(super) fn claim(log: LogId, epoch: Epoch, process: Uuid) -> String {
    let (process, epoch) = (process.simple(), epoch.0);
    // Assigned from left to right: the epoch last, since the others look at it.
    format!(
        "INSERT INTO presume_epoch (log_id, epoch, claimed_by) VALUES (X'{log}', {epoch}, X'{process}')
         ON DUPLICATE KEY UPDATE
             claimed_at = IF(epoch < {epoch}, CURRENT_TIMESTAMP, claimed_at),
             claimed_by = IF(epoch < {epoch}, X'{process}', claimed_by),
             epoch = GREATEST(epoch, {epoch})"
    )
}

/// The epoch that is claimed, and by whom.
pub(super) fn claimed(log: LogId) -> String {
    format!("SELECT epoch, claimed_by FROM presume_epoch WHERE log_id = X'{log}'")
}

/// The marker of a branch; fails if another epoch is claimed, or on a tombstone.
pub(super) fn mark(gid: Gid) -> String {
    let (log, epoch) = (gid.log, gid.epoch.0);
    let claimed_by = format!(
        "(SELECT claimed_by FROM presume_epoch WHERE log_id = X'{log}' AND epoch = {epoch})"
    );
    insert(gid, "INSERT", "committed", &claimed_by)
}

/// A tombstone, if there is neither marker nor tombstone.
pub(super) fn entomb(gid: Gid, process: Uuid) -> String {
    insert(gid, "INSERT IGNORE", "aborted", &format!("X'{}'", process.simple()))
}

fn insert(gid: Gid, verb: &str, ended: &str, claimed_by: &str) -> String {
    let Gid { log, epoch, physical, branch } = gid;
    format!(
        "{verb} INTO presume_marker (log_id, epoch, physical, branch, ended, claimed_by) VALUES \
         (X'{log}', {}, {}, {}, '{ended}', {claimed_by})",
        epoch.0, physical.0, branch.0
    )
}

/// How a branch ended.
pub(super) fn ended(gid: Gid) -> String {
    let Gid { log, epoch, physical, branch } = gid;
    format!(
        "SELECT CAST(ended AS CHAR) FROM presume_marker WHERE log_id = X'{log}' AND epoch = {} \
         AND physical = {} AND branch = {}",
        epoch.0, physical.0, branch.0
    )
}

/// The newest execution before that epoch which has committed here.
pub(super) fn newest(log: LogId, before: Epoch) -> String {
    format!(
        "SELECT epoch, physical FROM presume_marker
         WHERE log_id = X'{log}' AND epoch < {} AND ended = 'committed'
         ORDER BY epoch DESC, physical DESC LIMIT 1",
        before.0
    )
}

/// Keys of markers of that age of what has ended, at most as many as [`remove`] takes; never that
/// of the newest commit.
pub(super) fn old(ended: EndedBelow, age_s: u64) -> String {
    let (log, epoch, physical) = (ended.log, ended.epoch.0, ended.physical.0);
    format!(
        "SELECT epoch, physical, branch FROM presume_marker
         WHERE log_id = X'{log}' AND (epoch < {epoch} OR (epoch = {epoch} AND physical < {physical}))
           AND ended_at < CURRENT_TIMESTAMP - INTERVAL {age_s} SECOND
           AND NOT (ended = 'committed' AND (epoch, physical) = (
               SELECT epoch, physical FROM presume_marker
               WHERE log_id = X'{log}' AND ended = 'committed'
               ORDER BY epoch DESC, physical DESC LIMIT 1))
         LIMIT {REMOVED_MAX}"
    )
}

/// Removes markers, each by its key. A statement over all of them would scan with locks, and wait
/// for the branch that stands prepared beside the last.
pub(super) fn remove(log: LogId, keys: &[(u64, u64, u16)]) -> String {
    let mut sql = "START TRANSACTION".to_owned();
    for (epoch, physical, branch) in keys {
        let one = format!(
            "; DELETE FROM presume_marker WHERE log_id = X'{log}' AND epoch = {epoch} \
             AND physical = {physical} AND branch = {branch}"
        );
        sql.push_str(&one);
    }
    sql.push_str("; COMMIT");
    sql
}
