//! Our tables in the participant's database, and the statements on them.
//!
//! | table | key | what |
//! |---|---|---|
//! | `presume.server` | one row | the random identity of this database |
//! | `presume.epoch` | log id | the highest epoch that was claimed, and by which process |
//! | `presume.marker` | log id, epoch, physical id, branch | `committed` by the branch itself, or not: a tombstone |
//!
//! A branch inserts its marker in its own transaction, so whoever sees it knows that the branch is
//! committed. A tombstone under the same key makes a branch that comes later fail. The marker is
//! not inserted when the branch changed nothing, nor when another epoch than its own was claimed.

/// Version of the tables.
pub(super) const VERSION: i32 = 1;

/// Makes everything that is missing; may be repeated.
pub(super) const CREATE: &str = "\
CREATE SCHEMA IF NOT EXISTS presume;
CREATE TABLE IF NOT EXISTS presume.server (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id uuid NOT NULL,
    version integer NOT NULL
);
CREATE TABLE IF NOT EXISTS presume.epoch (
    log uuid PRIMARY KEY,
    epoch bigint NOT NULL,
    claimed_by uuid NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS presume.marker (
    log uuid NOT NULL,
    epoch bigint NOT NULL,
    physical bigint NOT NULL,
    branch integer NOT NULL,
    committed boolean NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (log, epoch, physical, branch)
);
INSERT INTO presume.server (id, version) VALUES (gen_random_uuid(), 1) ON CONFLICT DO NOTHING;
";

/// Whether the tables are there.
pub(super) const EXISTS: &str = "SELECT to_regclass('presume.server') IS NOT NULL \
     AND to_regclass('presume.epoch') IS NOT NULL AND to_regclass('presume.marker') IS NOT NULL";

/// Identity and version.
pub(super) const SERVER: &str = "SELECT id, version FROM presume.server";

/// Log, epoch, process → the epoch, or no row if a later one, or another process, holds it.
pub(super) const CLAIM: &str = "\
INSERT INTO presume.epoch AS known (log, epoch, claimed_by) VALUES ($1, $2, $3)
ON CONFLICT (log) DO UPDATE
    SET epoch = excluded.epoch, claimed_by = excluded.claimed_by, claimed_at = now()
    WHERE known.epoch < excluded.epoch
       OR (known.epoch = excluded.epoch AND known.claimed_by = excluded.claimed_by)
RETURNING epoch";

/// Log, epoch, process → one row if that process holds that epoch.
pub(super) const HOLDS: &str =
    "SELECT FROM presume.epoch WHERE log = $1 AND epoch = $2 AND claimed_by = $3";

/// Log → the epoch that is claimed.
pub(super) const CLAIMED: &str = "SELECT epoch FROM presume.epoch WHERE log = $1";

/// Prefix of the application name up to the epoch, own application name → sessions of older
/// epochs that are still there.
pub(super) const OLDER: &str = "\
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND starts_with(application_name, $1)
  AND application_name <> $2 AND pid <> pg_backend_pid()";

/// The same, each told to end.
pub(super) const END_OLDER: &str = "\
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND starts_with(application_name, $1)
  AND application_name <> $2 AND pid <> pg_backend_pid()";

/// Log, epoch, physical id, branch → one marker; none if nothing was changed before, or if another
/// epoch is claimed.
pub(super) const MARK: &str = "\
INSERT INTO presume.marker (log, epoch, physical, branch, committed)
SELECT log, epoch, $3, $4, true FROM presume.epoch
WHERE log = $1 AND epoch = $2 AND pg_current_xact_id_if_assigned() IS NOT NULL";

/// What stands before a statement that has `taken` parameters of its own, so that it leaves the
/// marker as well, in one execution. Parameters after its own: log, epoch, physical id, branch.
/// When another epoch is claimed it fails: the marker's log is null.
pub(super) fn marking(taken: usize) -> String {
    let [log, epoch, physical, branch] = [1, 2, 3, 4].map(|n| taken + n);
    format!(
        "WITH presume_marked AS (INSERT INTO presume.marker (log, epoch, physical, branch, committed)
         VALUES ((SELECT log FROM presume.epoch WHERE log = ${log} AND epoch = ${epoch}),
         ${epoch}, ${physical}, ${branch}, true)) "
    )
}

/// The same key → a tombstone, if there is neither marker nor tombstone.
pub(super) const ENTOMB: &str = "\
INSERT INTO presume.marker (log, epoch, physical, branch, committed)
VALUES ($1, $2, $3, $4, false) ON CONFLICT DO NOTHING";

/// The same key → how it ended.
pub(super) const ENDED: &str = "SELECT committed FROM presume.marker \
     WHERE log = $1 AND epoch = $2 AND physical = $3 AND branch = $4";

/// Log, epoch → the newest execution before that epoch which has committed here.
pub(super) const NEWEST: &str = "\
SELECT epoch, physical FROM presume.marker
WHERE log = $1 AND epoch < $2 AND committed ORDER BY epoch DESC, physical DESC LIMIT 1";

/// Log, epoch, physical id below which all is finished, seconds of age → markers removed; never
/// that of the newest commit.
pub(super) const PRUNE: &str = "\
DELETE FROM presume.marker WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM presume.marker
    WHERE log = $1 AND (epoch < $2 OR (epoch = $2 AND physical < $3))
      AND at < now() - make_interval(secs => $4)
      AND NOT (committed AND (epoch, physical) = (
          SELECT epoch, physical FROM presume.marker WHERE log = $1 AND committed
          ORDER BY epoch DESC, physical DESC LIMIT 1))
    LIMIT 10000))";

/// Everything prepared in this database.
pub(super) const PREPARED: &str =
    "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared";
