//! Who holds the money in a kill test: embedded ledgers, or databases of a real server.

use std::path::Path;

use presume::participants::Participant;
use presume::participants::ledger::{self, Ledger, NewAccount, Overdraft};

use crate::pair::{Pair, SIDES, Side, Travel, section};
use crate::postgres_server::PostgresServer;

/// The two participants.
pub const NAMES: [&str; 2] = ["left", "right"];

/// Both participants.
pub enum Banks {
    Ledgers,
    Databases(PostgresServer),
    Pair(Box<Pair>),
}

impl Banks {
    /// Two databases of one server; `None`, said aloud, where there is none.
    pub fn databases() -> Option<Self> {
        Some(Self::Databases(PostgresServer::start(100, &NAMES)?))
    }

    /// `PostgreSQL` and `MariaDB`, with their accounts; `None`, said aloud, where one is missing.
    pub fn pair(accounts: usize, opening: i64) -> Option<Self> {
        Some(Self::Pair(Box::new(Pair::start(accounts, opening)?)))
    }

    /// Opens accounts `a0`, `a1`, … with a balance, and writes the configuration's sections.
    pub async fn open(&self, data: &Path, accounts: usize, opening: i64) -> String {
        if let Self::Pair(pair) = self {
            return pair.sections();
        }
        let mut sections = String::new();
        for name in NAMES {
            let section = match self {
                Self::Ledgers => {
                    open_ledger(data, name, accounts, opening).await;
                    format!("[participants.{name}]\nkind = \"embedded\"\n")
                }
                Self::Databases(server) => {
                    let sql = format!(
                        "CREATE TABLE accounts (id text PRIMARY KEY, balance bigint NOT NULL); \
                         INSERT INTO accounts SELECT 'a' || n, {opening} \
                         FROM generate_series(0, {accounts} - 1) n"
                    );
                    server.sql(name, &sql);
                    server.sql(name, presume::participants::postgres::Postgres::init_statements());
                    section(name, "postgres", &server.url(name), Travel::Together)
                }
                Self::Pair(_) => unreachable!("answered above"),
            };
            sections.push_str(&section);
        }
        sections
    }

    /// Stops databases as a power cut does, and runs them again; of two servers one, in turns.
    pub fn cut_power(&mut self, turn: usize) {
        match self {
            Self::Ledgers => {}
            Self::Databases(server) => {
                server.stop();
                server.run();
            }
            Self::Pair(pair) => pair.cut_power(SIDES[turn % 2]),
        }
    }

    /// The balances of `a0`, `a1`, …; nothing is in doubt there and the books are sound.
    pub async fn balances(&self, data: &Path, name: &str, accounts: usize) -> Vec<i64> {
        match self {
            Self::Ledgers => {
                let ledger = ledger_at(data, name);
                let prepared = ledger.list_prepared().await.unwrap();
                assert!(prepared.branches.is_empty(), "{name} is in doubt");
                let report = ledger.verify().await.unwrap();
                assert!(report.is_sound(), "{name}: {:?}", report.problems);
                let balance = |i| ledger.balance(&format!("a{i}")).unwrap().balance_minor;
                let balances = (0..accounts).map(balance).collect();
                ledger.close().unwrap();
                balances
            }
            Self::Databases(server) => {
                let prepared = "SELECT count(*) FROM pg_prepared_xacts";
                assert_eq!(server.sql(name, prepared), "0", "{name} is in doubt");
                let sql = "SELECT balance FROM accounts ORDER BY substr(id, 2)::int";
                server.sql(name, sql).lines().map(|line| line.parse().unwrap()).collect()
            }
            Self::Pair(pair) => {
                let side = if name == NAMES[0] { Side::Left } else { Side::Right };
                assert_eq!(pair.prepared(side), "", "{name} is in doubt");
                let balances = pair.balances(side);
                assert_eq!(balances.len(), accounts);
                balances
            }
        }
    }
}

fn ledger_at(data: &Path, name: &str) -> Ledger {
    let dir = data.join("data").join("ledgers").join(name);
    Ledger::open(&dir, ledger::Options::default()).unwrap()
}

async fn open_ledger(data: &Path, name: &str, accounts: usize, opening: i64) {
    let ledger = ledger_at(data, name);
    let account = |i| NewAccount {
        id: format!("a{i}"),
        opening_minor: opening,
        overdraft: Overdraft::Refused,
    };
    ledger.open_accounts(&(0..accounts).map(account).collect::<Vec<_>>()).await.unwrap();
    ledger.close().unwrap();
}
