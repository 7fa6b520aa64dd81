//! Databases whose operations take batches, and what the claims about these need of them.

use std::any::Any;
use std::collections::BTreeMap;
use std::time::Duration;

use presume::participants::batch::{Batch, Member, Style, Then, Worked};
use presume::participants::mysql::Mysql;
use presume::participants::postgres::Postgres;
use presume::participants::{Batches, OperationSql, Participant};
use presume::txn::{Declined, Gid, Operation, OperationName, Vote};
use serde_json::json;

use crate::branches::{gid, operation};
use crate::contract::AnyBank;
use crate::{mysql, postgres};

/// How long a batch waits for a lock where nobody is to wait in vain.
pub const PATIENT: Duration = Duration::from_mins(1);

/// Both ways to send statements.
pub const STYLES: [Style; 2] = [Style::Together, Style::OneByOne];

/// A database with the accounts of [`AnyBank`], whose operations name what they lock.
pub trait BatchBank: AnyBank<Database: Clone + Participant> + Sized + Send + Sync {
    /// What a message holds that asks to prepare.
    const PREPARES: &'static str;
    /// A title's bytes in hexadecimal digits.
    const HEX: &'static str;

    async fn open() -> Option<Self>;

    /// The same database through a port of this machine, for another process.
    fn through(&self, port: u16) -> Self::Database;

    fn port(&self) -> u16;

    /// Somebody else's transaction that has locked an account, until it is dropped.
    async fn outsider(&self, account: &str) -> Box<dyn Any + Send>;

    /// How many transactions wait for a lock, which are open, and how many are prepared.
    fn waiting(&self) -> String;
    fn open_transactions(&self) -> String;
    fn prepared(&self) -> String;

    fn batches(&self) -> &dyn Batches {
        self.database().batches().unwrap()
    }

    /// Carries out a batch with one operation or more a member, whose place is ten times its index.
    async fn work(
        &self,
        physical: u64,
        members: &[Vec<Operation>],
        style: Style,
        then: Then,
    ) -> Worked {
        self.batches().work(batch(gid(physical), members, style, then)).await
    }

    /// Opens more accounts, each with this balance.
    fn open_accounts(&self, names: &[&str], balance: i64) {
        for name in names {
            self.sql(&format!("INSERT INTO accounts (id, balance) VALUES ('{name}', {balance})"));
        }
    }

    /// Nothing is prepared, and no session is in a transaction.
    async fn assert_clean(&self) {
        assert_eq!(self.prepared(), "0");
        // A session that was killed or cut may take a moment.
        for _ in 0..200 {
            if self.open_transactions().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(self.open_transactions(), "");
    }
}

pub fn batch(gid: Gid, members: &[Vec<Operation>], style: Style, then: Then) -> Batch {
    let member = |(index, operations): (usize, &Vec<Operation>)| Member {
        place: index * 10,
        operations: operations.as_slice().into(),
    };
    let members = members.iter().enumerate().map(member).collect();
    Batch { gid, members, style, keys_shared: true, lock_wait_max: PATIENT, then }
}

/// Who declined, and the vote in a word or two.
pub fn told(worked: &Worked) -> (Vec<usize>, String) {
    match worked {
        Worked::Done { declined, vote } => {
            let places = declined.iter().map(|(place, why)| {
                assert!(matches!(why, Declined::Business { .. }), "{place}: {why:?}");
                *place
            });
            let vote = vote.as_ref().map_or("none".to_owned(), crate::branches::code);
            (places.collect(), vote)
        }
        Worked::Failed { why, culprit } => {
            let why = crate::branches::code(&Vote::No(why.clone()));
            (culprit.iter().copied().collect(), format!("failed {why}"))
        }
        Worked::Unknown(_) => (vec![], "unknown".to_owned()),
    }
}

/// Everybody was carried out, and the vote or that there is none yet.
pub fn all_done(vote: Option<Vote>) -> Worked {
    Worked::Done { declined: vec![], vote }
}

pub fn rename(account: &str, title: serde_json::Value) -> Operation {
    operation("rename", json!({"account": account, "title": title}))
}

pub fn open(account: &str, amount: i64) -> Operation {
    operation("open", json!({"account": account, "amount": amount}))
}

const RENAME: &str = "UPDATE accounts SET title = $title WHERE id = $account";

/// The operations of the contract, each with its lock; those in `many` for many, too.
fn operations(many: &[(&str, &str, Option<&str>)]) -> BTreeMap<OperationName, OperationSql> {
    let mut operations = crate::contract::operations(&[("rename", RENAME, Some(1))]);
    for operation in operations.values_mut() {
        operation.locks = Some(vec!["account/$account".to_owned()]);
    }
    for (name, sql, check) in many {
        let operation = operations.get_mut(&name.parse().unwrap()).unwrap();
        operation.batch_sql = Some((*sql).to_owned());
        operation.batch_check = check.map(str::to_owned);
    }
    operations
}

pub fn of_postgres() -> BTreeMap<OperationName, OperationSql> {
    operations(&[
        (
            "debit",
            "UPDATE accounts SET balance = balance - v.amount \
             FROM unnest($member::int[], $account::text[], $amount::bigint[]) \
                  AS v (member, account, amount) \
             WHERE id = v.account AND balance >= v.amount RETURNING v.member",
            None,
        ),
        (
            "credit",
            "UPDATE accounts SET balance = balance + v.amount \
             FROM unnest($member::int[], $account::text[], $amount::bigint[]) \
                  AS v (member, account, amount) \
             WHERE id = v.account RETURNING v.member",
            None,
        ),
        (
            "rename",
            "UPDATE accounts SET title = v.title \
             FROM unnest($member::bigint[], $account::text[], $title::text[]) \
                  AS v (member, account, title) \
             WHERE id = v.account RETURNING v.member",
            None,
        ),
    ])
}

impl BatchBank for postgres::Bank {
    const PREPARES: &'static str = "PREPARE TRANSACTION";
    const HEX: &'static str = "encode(convert_to(title, 'UTF8'), 'hex')";

    async fn open() -> Option<Self> {
        Self::open_with(|options| options.operations = of_postgres()).await
    }

    fn through(&self, port: u16) -> Postgres {
        let own = format!(":{}/", self.server.port());
        let url = self.server.url("bank").replace(&own, &format!(":{port}/"));
        Self::client(&self.server, |options| {
            options.url = url;
            options.operations = of_postgres();
        })
    }

    fn port(&self) -> u16 {
        self.server.port()
    }

    async fn outsider(&self, account: &str) -> Box<dyn Any + Send> {
        let url = self.server.url("bank");
        let (client, connection) =
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let sql = format!("BEGIN; SELECT FROM accounts WHERE id = '{account}' FOR UPDATE");
        client.batch_execute(&sql).await.unwrap();
        Box::new(client)
    }

    fn waiting(&self) -> String {
        self.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    }

    fn open_transactions(&self) -> String {
        self.sql(
            "SELECT pid, state, query FROM pg_stat_activity \
             WHERE pid <> pg_backend_pid() AND xact_start IS NOT NULL AND datname = 'bank'",
        )
    }

    fn prepared(&self) -> String {
        self.sql("SELECT count(*) FROM pg_prepared_xacts")
    }
}

pub fn of_mysql() -> BTreeMap<OperationName, OperationSql> {
    let guarded = "SELECT v.member FROM $batch v \
                   STRAIGHT_JOIN accounts a FORCE INDEX (PRIMARY) ON a.id = v.account \
                   WHERE a.balance >= v.amount FOR UPDATE";
    let there = "SELECT v.member FROM $batch v \
                 STRAIGHT_JOIN accounts a FORCE INDEX (PRIMARY) ON a.id = v.account FOR UPDATE";
    let debit = "UPDATE $batch v STRAIGHT_JOIN accounts a FORCE INDEX (PRIMARY) \
                 ON a.id = v.account SET a.balance = a.balance - v.amount";
    let credit = "UPDATE $batch v STRAIGHT_JOIN accounts a FORCE INDEX (PRIMARY) \
                  ON a.id = v.account SET a.balance = a.balance + v.amount";
    let rename = "UPDATE $batch v STRAIGHT_JOIN accounts a FORCE INDEX (PRIMARY) \
                  ON a.id = v.account SET a.title = v.title";
    operations(&[
        ("debit", debit, Some(guarded)),
        ("credit", credit, Some(there)),
        ("rename", rename, Some(there)),
    ])
}

impl BatchBank for mysql::Bank {
    const PREPARES: &'static str = "XA PREPARE";
    const HEX: &'static str = "HEX(title)";

    async fn open() -> Option<Self> {
        Self::open_with(|options| options.operations = of_mysql()).await
    }

    fn through(&self, port: u16) -> Mysql {
        let own = format!(":{}/", self.server.port());
        let url = self.server.url().replace(&own, &format!(":{port}/"));
        Self::client(&self.server, |options| {
            options.url = url;
            options.operations = of_mysql();
        })
    }

    fn port(&self) -> u16 {
        self.server.port()
    }

    async fn outsider(&self, account: &str) -> Box<dyn Any + Send> {
        let row = format!("SELECT 1 FROM accounts WHERE id = '{account}' FOR UPDATE");
        Box::new(self.server.other_session(&format!("START TRANSACTION; {row}")))
    }

    // Not from the table `innodb_trx`: that stays as it was while it is asked again and again.
    fn waiting(&self) -> String {
        let status = self.sql("SHOW ENGINE INNODB STATUS");
        status.matches("LOCK WAIT ").count().to_string()
    }

    fn open_transactions(&self) -> String {
        let status = self.sql("SHOW ENGINE INNODB STATUS");
        if status.contains(", ACTIVE ") { status } else { String::new() }
    }

    fn prepared(&self) -> String {
        self.sql("XA RECOVER").lines().count().to_string()
    }
}
