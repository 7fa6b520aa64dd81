//! What batches have of traps: statements that a server takes and that mean something else, and
//! names of one row that are spelled in two ways.

use presume::participants::batch::{Batches, Key, Style, Then, Worked};
use presume::participants::mysql::Mysql;
use presume::participants::postgres::Postgres;
use presume::participants::{Ack, OperationSql, Participant};
use presume::txn::{Epoch, Operation};
use serde_json::json;

use crate::batch_banks::{BatchBank, told};
use crate::branches::{debit, gid, log, operation};
use crate::contract::AnyBank;
use crate::{mysql, postgres};

fn locked(sql: &str, batch_sql: &str, batch_check: Option<&str>) -> OperationSql {
    OperationSql {
        locks: Some(vec!["account/$account".to_owned()]),
        batch_sql: Some(batch_sql.to_owned()),
        batch_check: batch_check.map(str::to_owned),
        ..OperationSql::new(sql, Some(1))
    }
}

fn in_postgres(bank: &postgres::Bank, name: &str, operation: OperationSql) -> Postgres {
    postgres::Bank::client(&bank.server, |options| {
        options.operations.insert(name.parse().unwrap(), operation);
    })
}

fn in_mysql(bank: &mysql::Bank, name: &str, operation: OperationSql) -> Mysql {
    mysql::Bank::client(&bank.server, |options| {
        options.operations.insert(name.parse().unwrap(), operation);
    })
}

const PUT: &str = "UPDATE accounts SET balance = $amount WHERE id = $account";

#[tokio::test(flavor = "multi_thread")]
async fn postgres_says_at_a_claim_what_is_wrong_with_a_statement_for_many() {
    let Some(bank) = postgres::Bank::open().await else { return };
    let from = "FROM unnest($member::int[], $account::text[], $amount::bigint[]) AS v (m, a, n)";
    let update = format!("UPDATE accounts SET balance = v.n {from} WHERE id = v.a");
    let lists = |text: &str| update.replace("$amount::bigint[]", text);
    for (batch_sql, why) in [
        (update.clone(), "RETURNING the member is missing"),
        (format!("{update} RETURNING v.a"), "its first column is text, not the member"),
        (format!("{update} RETURNING v.x"), "column v.x does not exist"),
        (lists("$amount::int[]") + " RETURNING v.m", "$amount is a list of int4, not of int8"),
        (
            "UPDATE accounts SET balance = $amount::bigint WHERE $account::text[] IS NOT NULL \
             AND $member::int[] IS NOT NULL RETURNING 1"
                .to_owned(),
            "$amount is int8, not a list",
        ),
    ] {
        let put = in_postgres(&bank, "put", locked(PUT, &batch_sql, None));
        let error = put.claim_epoch(log(), Epoch(2)).await.unwrap_err().to_string();
        assert!(error.contains("operation put: batch_sql: ") && error.contains(why), "{error}");
    }
    bank.sql("ALTER TABLE accounts ADD share numeric");
    let by_share = "UPDATE accounts SET balance = $amount WHERE share = $share";
    let mut odd = OperationSql::new(by_share, Some(1));
    odd.locks = Some(vec!["share/$share".to_owned()]);
    let error =
        in_postgres(&bank, "put", odd).claim_epoch(log(), Epoch(2)).await.unwrap_err().to_string();
    assert!(error.contains("a lock names $share, a numeric"), "{error}");
    let whole = locked(PUT, &format!("{update} RETURNING v.m"), None);
    assert!(in_postgres(&bank, "put", whole).claim_epoch(log(), Epoch(2)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_says_at_a_claim_what_is_wrong_with_a_statement_for_many() {
    let Some(bank) = mysql::Bank::open().await else { return };
    let check = "SELECT v.member FROM $batch v JOIN accounts a ON a.id = v.account FOR UPDATE";
    let update = "UPDATE $batch v JOIN accounts a ON a.id = v.account SET a.balance = v.amount";
    let unnamed = check.replace("v.member", "v.member AS who");
    for (batch_sql, batch_check, why) in [
        (
            update.replace("v.amount", "v.sum"),
            check.to_owned(),
            "batch_sql: Unknown column 'v.sum'",
        ),
        (update.to_owned(), check.replace("v.account", "v.acc"), "batch_check: Unknown column"),
        (update.to_owned(), unnamed, "batch_check: Unknown column"),
    ] {
        let put = locked(PUT, &batch_sql, Some(&batch_check));
        let claimed = in_mysql(&bank, "put", put).claim_epoch(log(), Epoch(2)).await;
        let error = claimed.unwrap_err().to_string();
        assert!(error.contains(&format!("operation put: {why}")), "{error}");
    }
    let whole = locked(PUT, update, Some(check));
    assert!(in_mysql(&bank, "put", whole).claim_epoch(log(), Epoch(2)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_names_of_one_row_are_nobodys_decline() {
    let Some(bank) = <mysql::Bank as BatchBank>::open().await else { return };
    // One row to the column's collation, and two names that do not look alike.
    let members = [vec![debit("a", 60)], vec![debit("á", 60)]];
    let worked = bank.work(1, &members, Style::Together, Then::Prepare).await;
    let Worked::Failed { why, culprit: None } = &worked else { panic!("{worked:?}") };
    assert!(format!("{why:?}").contains("two of them mean one"), "{why:?}");
    let worked = bank.work(2, &members, Style::OneByOne, Then::Hold).await;
    assert_eq!(told(&worked), (vec![10], "none".to_owned()));
    assert_eq!(bank.database().abort(gid(2)).await, Ack::Done);
    assert_eq!(bank.balance("a"), 100);
    bank.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_several_kinds_stay_what_they_are() {
    let Some(bank) = <mysql::Bank as BatchBank>::open().await else { return };
    bank.open_accounts(&["c", "d"], 100);
    let put =
        |account: &str, amount| operation("credit", json!({"account": account, "amount": amount}));
    // As one column of texts, the sums would be those of floating-point numbers.
    let most = 999_999 - 100;
    let members = [
        vec![put("a", json!(1))],
        vec![put("b", json!("2"))],
        vec![put("c", json!(3.0))],
        vec![put("d", json!(most))],
    ];
    let worked = bank.work(1, &members, Style::Together, Then::Prepare).await;
    assert_eq!(told(&worked), (vec![], "yes".to_owned()));
    assert_eq!(bank.database().commit(gid(1)).await, Ack::Done);
    let balances = ["a", "b", "c", "d"].map(|account| bank.balance(account));
    assert_eq!(balances, [101, 102, 103, 999_999]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_share_a_batch_has_no_keys() {
    let Some(bank) = mysql::Bank::open().await else { return };
    let keys = |batches: &dyn Batches, operation: &Operation| {
        let mut keys = Vec::new();
        batches.keys(operation, &mut keys).then_some(keys)
    };
    let plain = bank.database();
    assert_eq!(keys(plain.batches().unwrap(), &debit("a", 1)), None, "nothing is declared");
    let mut call = OperationSql::new("CALL pay($account)", None);
    call.locks = Some(vec!["account/$account".to_owned()]);
    let calls = in_mysql(&bank, "call", call);
    let call = operation("call", json!({"account": "a"}));
    assert_eq!(keys(calls.batches().unwrap(), &call), None, "it may answer more than once");
    let mut put = OperationSql::new(PUT, None);
    put.locks = Some(vec!["all".to_owned()]);
    let puts = in_mysql(&bank, "put", put);
    let put = operation("put", json!({"account": "a", "amount": 1}));
    assert_eq!(keys(puts.batches().unwrap(), &put), Some(vec![Key::new("all")]));
}
