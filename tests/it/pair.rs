//! One `PostgreSQL`, `left`, and one `MariaDB`, `right`, with accounts to transfer between.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use presume::participants::mysql::Mysql;
use presume::participants::postgres::Postgres;

use crate::banks::NAMES;
use crate::batch_banks;
use crate::mysql_server::MysqlServer;
use crate::postgres_server::PostgresServer;

/// How long anything may take until it is settled, once everybody answers again: a bound of
/// correctness, far above what it takes.
pub const SETTLED_MAX: Duration = Duration::from_mins(1);

pub struct Pair {
    pub postgres: PostgresServer,
    pub mysql: MysqlServer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
}

/// Whether operations say what they lock, so that transfers share batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Travel {
    Together,
    Alone,
}

pub const SIDES: [Side; 2] = [Side::Left, Side::Right];

impl Side {
    pub fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    pub fn other(self) -> Self {
        if self == Self::Left { Self::Right } else { Self::Left }
    }
}

impl Pair {
    /// Both with accounts `a0`, `a1`, … of this balance; `None`, said aloud, where one is missing.
    pub fn start(accounts: usize, opening: i64) -> Option<Self> {
        Self::start_with(100, accounts, opening)
    }

    /// The same, with so many prepared transactions in the one that counts them.
    pub fn start_with(prepared_max: u32, accounts: usize, opening: i64) -> Option<Self> {
        let postgres = PostgresServer::start(prepared_max, &["left"])?;
        let mysql = MysqlServer::start()?;
        postgres.sql("left", Postgres::init_statements());
        postgres.sql(
            "left",
            &format!(
                "CREATE TABLE accounts (id text PRIMARY KEY, balance bigint NOT NULL); \
                 INSERT INTO accounts SELECT 'a' || n, {opening} \
                 FROM generate_series(0, {accounts} - 1) n"
            ),
        );
        mysql.sql(Mysql::init_statements());
        mysql.sql(&format!(
            "CREATE TABLE accounts (id VARCHAR(32) PRIMARY KEY, balance BIGINT NOT NULL); \
             INSERT INTO accounts SELECT CONCAT('a', seq), {opening} \
             FROM seq_0_to_{}",
            accounts - 1
        ));
        Some(Self { postgres, mysql })
    }

    /// The configuration's sections of both, with batches.
    pub fn sections(&self) -> String {
        sections(&self.postgres.url("left"), &self.mysql.url(), Travel::Together)
    }

    /// The sections with a proxy before each.
    pub fn sections_behind(&self, ports: [u16; 2], travel: Travel) -> String {
        let at = |url: String, own: u16, port: u16| {
            url.replace(&format!(":{own}/"), &format!(":{port}/"))
        };
        let left = at(self.postgres.url("left"), self.postgres.port(), ports[0]);
        let right = at(self.mysql.url(), self.mysql.port(), ports[1]);
        sections(&left, &right, travel)
    }

    pub fn sql(&self, side: Side, sql: &str) -> String {
        match side {
            Side::Left => self.postgres.sql("left", sql),
            Side::Right => self.mysql.sql(sql),
        }
    }

    /// Everything that stands prepared there, a line each.
    pub fn prepared(&self, side: Side) -> String {
        match side {
            Side::Left => self.sql(side, "SELECT gid FROM pg_prepared_xacts ORDER BY gid"),
            Side::Right => self.sql(side, "XA RECOVER"),
        }
    }

    pub fn balance(&self, side: Side, account: usize) -> i64 {
        let sql = format!("SELECT balance FROM accounts WHERE id = 'a{account}'");
        self.sql(side, &sql).parse().unwrap()
    }

    pub fn balances(&self, side: Side) -> Vec<i64> {
        let sql = match side {
            Side::Left => "SELECT balance FROM accounts ORDER BY substr(id, 2)::int",
            Side::Right => "SELECT balance FROM accounts ORDER BY CAST(SUBSTR(id, 2) AS INT)",
        };
        self.sql(side, sql).lines().map(|line| line.parse().unwrap()).collect()
    }

    /// The sum of both.
    pub fn money(&self) -> i64 {
        SIDES.iter().flat_map(|side| self.balances(*side)).sum()
    }

    /// Waits until nothing stands prepared anywhere.
    pub async fn settled(&self, what: &str) {
        let nothing = || SIDES.iter().all(|side| self.prepared(*side).is_empty());
        eventually(what, nothing).await;
    }

    /// Stops one as a power cut does, and runs it again.
    pub fn cut_power(&mut self, side: Side) {
        match side {
            Side::Left => {
                self.postgres.stop();
                self.postgres.run();
            }
            Side::Right => {
                self.mysql.stop();
                self.mysql.run();
            }
        }
    }
}

/// Asks again and again until it is so, within [`SETTLED_MAX`].
pub async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < SETTLED_MAX, "not within {SETTLED_MAX:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A quick configuration around these sections: rules only, short waits.
pub fn configuration(data: &Path, coordinator: &str, sections: &str) {
    let text = format!(
        "[policy]\nmode = \"off\"\nprepare_timeout_ms_default = 3000\n\
         [coordinator]\nscan_interval_ms = 200\nretry_ms_first = 10\nretry_ms_max = 200\n\
         {coordinator}\n{sections}"
    );
    std::fs::write(data.join("presume.toml"), text).unwrap();
}

fn sections(left: &str, right: &str, travel: Travel) -> String {
    section("left", "postgres", left, travel) + &section("right", "mysql", right, travel)
}

/// One participant with `debit` and `credit`.
pub fn section(name: &str, kind: &str, url: &str, travel: Travel) -> String {
    let mut text = format!(
        "[participants.{name}]
kind = \"{kind}\"
url = \"{url}\"
connect_timeout_ms = 1000
listening_horizon_ms = 2000
allow_unsafe = [\"fsync\"]
"
    );
    let guarded = "balance = balance - $amount WHERE id = $account AND balance >= $amount";
    let free = "balance = balance + $amount WHERE id = $account";
    let many = if kind == "mysql" { batch_banks::of_mysql() } else { batch_banks::of_postgres() };
    for (operation, change) in [("debit", guarded), ("credit", free)] {
        writeln!(
            text,
            "[participants.{name}.operations.{operation}]
sql = \"UPDATE accounts SET {change}\"
expect_rows = 1"
        )
        .unwrap();
        if travel == Travel::Together {
            let many = &many[&operation.parse().unwrap()];
            let (locks, sql) = (many.locks.as_ref().unwrap(), many.batch_sql.as_ref().unwrap());
            writeln!(text, "locks = {locks:?}\nbatch_sql = {sql:?}").unwrap();
            if let Some(check) = &many.batch_check {
                writeln!(text, "batch_check = {check:?}").unwrap();
            }
        }
    }
    text
}
