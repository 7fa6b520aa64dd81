//! What every database keeps to that takes batches: the same claims of each.

use std::collections::BTreeSet;
use std::time::Duration;

use presume::participants::batch::{Style, Then, Worked};
use presume::participants::{Ack, Participant};
use presume::txn::{Epoch, Operation, Vote};
use serde_json::json;

use crate::batch_banks::{BatchBank, STYLES, all_done, batch, open, rename, told};
use crate::batch_oracle;
use crate::branches::{at, credit, debit, gid, gid_of, log, operation};
use crate::pair::eventually;
use crate::proxy::{Moment, Outage, Proxy};

/// One test a claim and a kind of database.
macro_rules! claims {
    ($($module:ident: $bank:ty;)*) => { $(mod $module { claims!(@ $bank;
        votes_decisions_and_repeated_calls
        held_work_is_prepared_or_aborted
        who_declines_is_named_and_has_left_no_trace
        members_see_what_those_before_them_did
        an_error_names_its_member_if_statements_go_one_by_one
        the_first_in_order_answers_for_a_member_that_cannot_be_undone_alone
        a_row_that_somebody_else_has_stalls_only_who_needs_it
        an_abort_under_way_leaves_nothing
        a_lost_connection_is_never_a_yes
        an_older_epoch_is_fenced
        what_only_looks_has_nothing_to_commit
        many_members_and_odd_texts_arrive_as_they_are
    ); })* };
    (@ $bank:ty; $($claim:ident)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $claim() {
            let opened = <$bank as super::BatchBank>::open().await;
            let Some(bank) = opened else { return };
            super::$claim(&bank).await;
            bank.assert_clean().await;
        }
    )*
        use super::BatchBank;

        #[tokio::test(flavor = "multi_thread")]
        async fn batches_equal_a_serial_order_of_their_members() {
            let opened = <$bank as BatchBank>::open().await;
            let Some(bank) = opened else { return };
            super::batch_oracle::batches_equal_a_serial_order_of_their_members(&bank);
            bank.assert_clean().await;
        }
    };
}

claims! {
    on_postgres: crate::postgres::Bank;
    on_mysql: crate::mysql::Bank;
}

fn yes() -> Worked {
    all_done(Some(Vote::Yes))
}

fn transfer(from: &str, to: &str, amount: i64) -> Vec<Operation> {
    vec![debit(from, amount), credit(to, amount)]
}

async fn votes_decisions_and_repeated_calls<B: BatchBank>(bank: &B) {
    let database = bank.database();
    for (physical, style) in (1..).zip(STYLES) {
        let before = (bank.balance("a"), bank.balance("b"), bank.markers());
        let members = [transfer("a", "b", 10), vec![debit("b", 20)], vec![credit("a", 5)]];
        assert_eq!(bank.work(physical, &members, style, Then::Prepare).await, yes());
        assert_eq!((bank.balance("a"), bank.balance("b"), bank.markers()), before);
        assert_eq!(database.list_prepared().await.unwrap().branches, [gid(physical)]);
        for _ in 0..2 {
            assert_eq!(database.commit(gid(physical)).await, Ack::Done);
        }
        assert_eq!((bank.balance("a"), bank.balance("b")), (before.0 - 5, before.1 - 10));
        assert!(matches!(database.abort(gid(physical)).await, Ack::Heuristic(_)));
    }
    assert_eq!(bank.markers(), "1 committed,2 committed", "one a batch");
    for (physical, style) in (3..).zip(STYLES) {
        let members = [transfer("a", "b", 10), vec![debit("b", 20)]];
        assert_eq!(bank.work(physical, &members, style, Then::Prepare).await, yes());
        for _ in 0..2 {
            assert_eq!(database.abort(gid(physical)).await, Ack::Done);
        }
        assert!(matches!(database.commit(gid(physical)).await, Ack::Heuristic(_)));
    }
    assert_eq!((bank.balance("a"), bank.balance("b")), (90, 80));
}

async fn held_work_is_prepared_or_aborted<B: BatchBank>(bank: &B) {
    let database = bank.database();
    for (physical, style) in (1..).zip(STYLES) {
        let members = [vec![debit("a", 10)], vec![credit("b", 10)]];
        assert_eq!(bank.work(physical, &members, style, Then::Hold).await, all_done(None));
        assert_eq!(database.list_prepared().await.unwrap().branches, []);
        assert_eq!(bank.batches().prepare_held(gid(physical)).await, Vote::Yes);
        // It is held no longer.
        assert!(matches!(bank.batches().prepare_held(gid(physical)).await, Vote::No(_)));
        assert_eq!(database.list_prepared().await.unwrap().branches, [gid(physical)]);
        assert_eq!(database.commit(gid(physical)).await, Ack::Done);
    }
    assert_eq!((bank.balance("a"), bank.balance("b")), (80, 120));
    // Again and again: neither sessions nor places for what is prepared are lost.
    for physical in 3..60 {
        let members = [vec![debit("a", 10)], vec![credit("b", 10)]];
        let worked = bank.work(physical, &members, Style::Together, Then::Hold).await;
        assert_eq!(worked, all_done(None), "{physical}");
        if physical % 3 == 0 {
            assert_eq!(bank.batches().prepare_held(gid(physical)).await, Vote::Yes);
        }
        assert_eq!(database.abort(gid(physical)).await, Ack::Done);
        assert!(matches!(bank.batches().prepare_held(gid(physical)).await, Vote::No(_)));
    }
    assert_eq!(database.abort(gid(3)).await, Ack::Done);
    assert_eq!((bank.balance("a"), bank.balance("b")), (80, 120));
}

async fn who_declines_is_named_and_has_left_no_trace<B: BatchBank>(bank: &B) {
    bank.open_accounts(&["c", "d"], 100);
    let members = [
        vec![debit("a", 101)],
        vec![debit("b", 30)],
        vec![debit("nobody", 1)],
        vec![credit("c", 5)],
        vec![debit("d", 101)],
    ];
    for (physical, style) in (1..).zip(STYLES) {
        let worked = bank.work(physical, &members, style, Then::Hold).await;
        assert_eq!(told(&worked), (vec![0, 20, 40], "none".to_owned()));
        assert_eq!(bank.batches().prepare_held(gid(physical)).await, Vote::Yes);
        assert_eq!(bank.database().commit(gid(physical)).await, Ack::Done);
    }
    let balances = || ["a", "b", "c", "d"].map(|account| bank.balance(account));
    assert_eq!(balances(), [100, 40, 110, 100]);
    assert_eq!(bank.markers(), "1 committed,2 committed");
    // A yes would promise the work of all: so there is none.
    for physical in 3..30 {
        let style = STYLES[usize::from(physical % 2 == 0)];
        let worked = bank.work(physical, &members, style, Then::Prepare).await;
        assert_eq!(told(&worked), (vec![0, 20, 40], "none".to_owned()));
        assert_eq!(bank.database().list_prepared().await.unwrap().branches, []);
    }
    // Nobody is left.
    let members = [vec![debit("a", 101)], vec![debit("d", 101)]];
    for (physical, style) in (30..).zip(STYLES) {
        let worked = bank.work(physical, &members, style, Then::Prepare).await;
        assert_eq!(told(&worked), (vec![0, 10], "none".to_owned()));
    }
    assert_eq!(balances(), [100, 40, 110, 100]);
    assert_eq!(bank.markers(), "1 committed,2 committed");
    assert_eq!(bank.database().abort(gid(3)).await, Ack::Done);
}

async fn members_see_what_those_before_them_did<B: BatchBank>(bank: &B) {
    for (physical, style) in (1..).zip(STYLES) {
        let members = [
            vec![debit("a", 100)],
            vec![debit("a", 1)],
            vec![credit("a", 50)],
            vec![debit("a", 50)],
            vec![debit("a", 1)],
            vec![credit("a", 100)],
            // One member, twice the same account.
            vec![debit("b", 100), credit("b", 100)],
            vec![debit("b", 60)],
            vec![debit("b", 60)],
            vec![credit("b", 60)],
        ];
        let worked = bank.work(physical, &members, style, Then::Hold).await;
        assert_eq!(told(&worked), (vec![10, 40, 80], "none".to_owned()));
        assert_eq!(bank.batches().prepare_held(gid(physical)).await, Vote::Yes);
        assert_eq!(bank.database().commit(gid(physical)).await, Ack::Done);
        assert_eq!((bank.balance("a"), bank.balance("b")), (100, 100));
    }
}

async fn an_error_names_its_member_if_statements_go_one_by_one<B: BatchBank>(bank: &B) {
    bank.open_accounts(&["c"], 100);
    let mut physical = 0;
    for (wrong, why) in [
        (credit("b", 2_000_000), "failed business check_violation"),
        (credit("b", i64::MAX), "failed business bad_value"),
        (open("a", 1), "failed business unique_violation"),
    ] {
        let members =
            [vec![debit("a", 1)], vec![credit("c", 1)], vec![wrong], vec![credit("a", 1)]];
        for then in [Then::Prepare, Then::Hold] {
            physical += 1;
            let worked = bank.work(physical, &members, Style::OneByOne, then).await;
            assert_eq!(told(&worked), (vec![20], why.to_owned()));
            physical += 1;
            let worked = bank.work(physical, &members, Style::Together, then).await;
            let (culprits, said) = told(&worked);
            assert_eq!((culprits, said.as_str()), (vec![], why));
            assert!(matches!(bank.batches().prepare_held(gid(physical)).await, Vote::No(_)));
        }
    }
    // What is no amount at all is refused before it is sent, or by the server.
    for style in STYLES {
        physical += 1;
        let odd = operation("credit", json!({"account": "c", "amount": {"x": 1}}));
        let members = [vec![debit("a", 1)], vec![credit("c", 1), odd], vec![credit("b", 1)]];
        let worked = bank.work(physical, &members, style, Then::Prepare).await;
        let (culprits, said) = told(&worked);
        assert!(said.starts_with("failed business bad_"), "{said}");
        assert!(culprits == [10] || style == Style::Together && culprits.is_empty());
    }
    assert_eq!(["a", "b", "c"].map(|account| bank.balance(account)), [100, 100, 100]);
    assert_eq!(bank.markers(), "");
}

async fn the_first_in_order_answers_for_a_member_that_cannot_be_undone_alone<B: BatchBank>(
    bank: &B,
) {
    bank.open_accounts(&["c", "d"], 100);
    // The second empties `a` and then fails, so that neither the third nor the last is to blame.
    let members = [
        vec![debit("c", 1)],
        vec![debit("a", 100), credit("d", 1), debit("b", 101)],
        vec![debit("a", 1), credit("c", 1)],
        vec![debit("a", 1)],
    ];
    for (physical, style) in (1..).zip(STYLES) {
        for (physical, then) in (physical * 10..).zip([Then::Hold, Then::Prepare]) {
            let worked = bank.work(physical, &members, style, then).await;
            assert_eq!(told(&worked), (vec![10], "failed business debit".to_owned()));
        }
    }
    // Nor is who breaks a rule of the database because of what that member did.
    let members = [vec![credit("a", 999_800), debit("b", 101)], vec![credit("a", 150)]];
    let worked = bank.work(50, &members, Style::OneByOne, Then::Prepare).await;
    assert_eq!(told(&worked), (vec![0], "failed business debit".to_owned()));
    assert_eq!(["a", "b", "c", "d"].map(|account| bank.balance(account)), [100; 4]);
    assert_eq!(bank.markers(), "");
}

async fn a_row_that_somebody_else_has_stalls_only_who_needs_it<B: BatchBank>(bank: &B) {
    bank.open_accounts(&["c"], 100);
    let outsider = bank.outsider("b").await;
    let members = [vec![debit("a", 1)], vec![debit("b", 1)], vec![debit("c", 1)]];
    let mut physical = 0;
    for style in STYLES {
        for then in [Then::Prepare, Then::Hold] {
            physical += 1;
            let mut impatient = batch(gid(physical), &members, style, then);
            impatient.lock_wait_max = Duration::from_millis(100);
            let worked = bank.batches().work(impatient).await;
            let Worked::Failed { why, culprit } = &worked else { panic!("{worked:?}") };
            let expected = (style == Style::OneByOne).then_some(10);
            assert_eq!(*culprit, expected, "{why:?}");
            let (_, said) = told(&worked);
            let said_so = ["failed technical lock_timeout", "failed technical statement_timeout"];
            assert!(said_so.contains(&said.as_str()), "{said}");
        }
        // Others' rows are free meanwhile.
        physical += 1;
        let members = [vec![debit("a", 1)], vec![debit("c", 1)]];
        assert_eq!(bank.work(physical, &members, style, Then::Prepare).await, yes());
        assert_eq!(bank.database().commit(gid(physical)).await, Ack::Done);
    }
    drop(outsider);
    assert_eq!(["a", "b", "c"].map(|account| bank.balance(account)), [98, 100, 98]);
    // The patience was the batch's, and not its session's.
    let outsider = bank.outsider("b").await;
    let database = bank.database().clone();
    let waiting = tokio::spawn(async move { database.prepare(gid(100), &[debit("b", 1)]).await });
    eventually("it waits", || bank.waiting() == "1").await;
    drop(outsider);
    assert_eq!(waiting.await.unwrap(), Vote::Yes);
    assert_eq!(bank.database().commit(gid(100)).await, Ack::Done);
}

async fn an_abort_under_way_leaves_nothing<B: BatchBank>(bank: &B) {
    let mut physical = 0;
    for then in [Then::Hold, Then::Prepare] {
        // More often than there are places for what is prepared.
        for _ in 0..10 {
            physical += 1;
            let outsider = bank.outsider("b").await;
            let database = bank.database().clone();
            let members = [vec![debit("a", 1)], vec![debit("b", 1)]];
            let batch = batch(gid(physical), &members, Style::Together, then);
            let working =
                tokio::spawn(async move { database.batches().unwrap().work(batch).await });
            eventually("it waits", || bank.waiting() == "1").await;
            let first = bank.database().abort(gid(physical)).await;
            assert!(matches!(first, Ack::Done | Ack::Unknown(_)), "{first:?}");
            drop(outsider);
            let worked = working.await.unwrap();
            let refused = matches!(worked, Worked::Failed { .. });
            // It may have been prepared before the abort could come between.
            assert!(refused || worked == yes(), "{worked:?}");
            while bank.database().abort(gid(physical)).await != Ack::Done {}
            assert!(matches!(bank.batches().prepare_held(gid(physical)).await, Vote::No(_)));
            assert_eq!(bank.database().list_prepared().await.unwrap().branches, []);
        }
    }
    assert_eq!((bank.balance("a"), bank.balance("b")), (100, 100));
    let members = [vec![debit("a", 1)], vec![debit("b", 1)]];
    assert_eq!(bank.work(100, &members, Style::Together, Then::Prepare).await, yes());
    assert_eq!(bank.database().commit(gid(100)).await, Ack::Done);
}

async fn a_lost_connection_is_never_a_yes<B: BatchBank>(bank: &B) {
    let proxy = Proxy::before(bank.port()).await;
    let through = bank.through(proxy.port());
    through.claim_epoch(log(), Epoch(2)).await.unwrap();
    let batches = through.batches().unwrap();
    let members = [vec![debit("a", 1)], vec![credit("b", 1)], transfer("a", "b", 1)];
    let mut physical = 0;
    let moments = [Moment::BeforeItIsSent, Moment::OnceItIsSent, Moment::BeforeItIsAnswered];
    for style in STYLES {
        for moment in moments {
            for then in [Then::Prepare, Then::Hold] {
                physical += 1;
                let gid = gid_of(2, physical);
                proxy.set(B::PREPARES, moment, Outage::OneConnection);
                let batch = batch(gid, &members, style, then);
                let working = async {
                    let worked = batches.work(batch).await;
                    if then == Then::Hold {
                        assert_eq!(worked, all_done(None));
                        let vote = batches.prepare_held(gid).await;
                        return matches!(vote, Vote::No(_) | Vote::Unknown(_));
                    }
                    matches!(worked, Worked::Unknown(_) | Worked::Failed { .. })
                };
                let cutting = async {
                    proxy.sprung().await;
                    if moment == Moment::BeforeItIsAnswered {
                        proxy.cut(Outage::OneConnection);
                    }
                };
                let (no, ()) = tokio::join!(working, cutting);
                assert!(no, "{style:?} {moment:?} {then:?}");
                eventually_aborted(&through, gid).await;
            }
        }
    }
    // Lost while nobody asks anything.
    physical += 1;
    let held = gid_of(2, physical);
    let worked = batches.work(batch(held, &members, Style::Together, Then::Hold)).await;
    assert_eq!(worked, all_done(None));
    proxy.cut(Outage::UntilHealed);
    assert!(!matches!(batches.prepare_held(held).await, Vote::Yes | Vote::ReadOnly));
    proxy.heal();
    eventually_aborted(&through, held).await;
    assert_eq!((bank.balance("a"), bank.balance("b")), (100, 100));
    assert_eq!(through.list_prepared().await.unwrap().branches, []);
}

async fn eventually_aborted(database: &impl Participant, gid: presume::txn::Gid) {
    loop {
        match database.abort(gid).await {
            Ack::Done => return,
            Ack::Unknown(_) => {}
            Ack::Heuristic(why) => panic!("{why}"),
        }
    }
}

async fn an_older_epoch_is_fenced<B: BatchBank>(bank: &B) {
    let members = [vec![debit("a", 1)], vec![credit("b", 1)]];
    let worked = bank.work(1, &members, Style::Together, Then::Hold).await;
    assert_eq!(worked, all_done(None));
    let next = bank.through(bank.port());
    next.claim_epoch(log(), Epoch(2)).await.unwrap();
    // What was held has ended with its session.
    assert!(!matches!(bank.batches().prepare_held(gid(1)).await, Vote::Yes | Vote::ReadOnly));
    // Nor does the newer one carry out what belongs to the older.
    let batches = next.batches().unwrap();
    for (physical, style) in (2..).zip(STYLES) {
        let worked = batches.work(batch(gid(physical), &members, style, Then::Prepare)).await;
        let (_, said) = told(&worked);
        assert!(said.ends_with("technical fenced"), "{said}");
        let late = gid(physical + 10);
        let worked = batches.work(batch(late, &members, style, Then::Hold)).await;
        let fenced = match worked {
            Worked::Done { declined, vote: None } if declined.is_empty() => {
                crate::branches::code(&batches.prepare_held(late).await)
            }
            worked => told(&worked).1,
        };
        assert!(fenced.ends_with("technical fenced"), "{fenced}");
    }
    let worked = batches.work(batch(gid_of(2, 1), &members, Style::Together, Then::Prepare)).await;
    assert_eq!(worked, yes());
    assert_eq!(next.commit(gid_of(2, 1)).await, Ack::Done);
    assert_eq!((bank.balance("a"), bank.balance("b")), (99, 101));
    assert_eq!(next.list_prepared().await.unwrap().branches, []);
}

async fn what_only_looks_has_nothing_to_commit<B: BatchBank>(bank: &B) {
    let members = [vec![at("look", "a")], vec![at("look", "b"), at("look", "a")]];
    for (physical, style) in (1..).zip(STYLES) {
        let worked = bank.work(physical, &members, style, Then::Prepare).await;
        assert_eq!(worked, all_done(Some(Vote::ReadOnly)));
        let held = physical + 10;
        assert_eq!(bank.work(held, &members, style, Then::Hold).await, all_done(None));
        assert_eq!(bank.batches().prepare_held(gid(held)).await, Vote::ReadOnly);
        let held = physical + 20;
        assert_eq!(bank.work(held, &members, style, Then::Hold).await, all_done(None));
        assert_eq!(bank.database().abort(gid(held)).await, Ack::Done);
    }
    // Who looks sees what members before it did, and may decline.
    let mixed = [
        vec![debit("a", 1)],
        vec![at("look", "a")],
        vec![at("look", "nobody")],
        vec![open("n", 1)],
    ];
    let worked = bank.work(30, &mixed, Style::Together, Then::Hold).await;
    assert_eq!(told(&worked), (vec![20], "none".to_owned()));
    assert_eq!(bank.batches().prepare_held(gid(30)).await, Vote::Yes);
    assert_eq!(bank.database().commit(gid(30)).await, Ack::Done);
    assert_eq!((bank.balance("a"), bank.balance("n")), (99, 1));
}

async fn many_members_and_odd_texts_arrive_as_they_are<B: BatchBank>(bank: &B) {
    const COUNT: usize = 500;
    let names: Vec<String> = (0..COUNT).map(|n| format!("m{n}")).collect();
    let opened: Vec<_> = names.iter().map(|name| vec![open(name, 100)]).collect();
    assert_eq!(bank.work(1, &opened, Style::Together, Then::Prepare).await, yes());
    assert_eq!(bank.database().commit(gid(1)).await, Ack::Done);
    for (physical, style) in (2..).zip(STYLES) {
        let one = |n: usize| match n % 100 {
            7 => vec![debit(&names[n], 1_000)],
            _ => vec![debit(&names[n], 10)],
        };
        let members: Vec<_> = (0..COUNT).map(one).collect();
        let worked = bank.work(physical, &members, style, Then::Hold).await;
        assert_eq!(told(&worked).0, [70, 1_070, 2_070, 3_070, 4_070]);
        assert_eq!(bank.batches().prepare_held(gid(physical)).await, Vote::Yes);
        assert_eq!(bank.database().commit(gid(physical)).await, Ack::Done);
    }
    let sum = bank.sql("SELECT SUM(balance) FROM accounts WHERE id LIKE 'm%'");
    assert_eq!(sum, (100 * COUNT - 2 * 10 * (COUNT - 5)).to_string());

    let odd = [
        json!("it's \"quoted\" \\ and {braced}, $1 ? ; -- x"),
        json!("NULL"),
        json!(null),
        json!(""),
        json!("  two  "),
        json!("\n\t\u{1}"),
        json!("\\N"),
        json!("ünïcødé 🦀"),
        json!("'); DROP TABLE accounts; --"),
        json!("{\"a\": [1, null]}"),
    ];
    let members: Vec<_> =
        odd.iter().enumerate().map(|(n, text)| vec![rename(&names[n], text.clone())]).collect();
    let hex = |n: usize| {
        bank.sql(&format!("SELECT COALESCE({}, 'none') FROM accounts WHERE id = 'm{n}'", B::HEX))
    };
    let expected = |text: &serde_json::Value| match text.as_str() {
        Some(text) => text.bytes().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}")),
        None => "none".to_owned(),
    };
    for (physical, style) in (10..).zip(STYLES) {
        assert_eq!(bank.work(physical, &members, style, Then::Prepare).await, yes());
        assert_eq!(bank.database().commit(gid(physical)).await, Ack::Done);
        for (n, text) in odd.iter().enumerate() {
            assert_eq!(hex(n).to_lowercase(), expected(text), "{text}");
            bank.sql(&format!("UPDATE accounts SET title = 'x' WHERE id = 'm{n}'"));
        }
    }
    // The same as names of accounts, of which no part is taken for another's.
    let texts: BTreeSet<&str> = odd.iter().filter_map(|text| text.as_str()).collect();
    let texts: Vec<&str> = texts.into_iter().filter(|text| text.len() < 32).collect();
    let opened: Vec<_> = texts.iter().map(|text| vec![open(text, 100)]).collect();
    assert_eq!(bank.work(20, &opened, Style::Together, Then::Prepare).await, yes());
    assert_eq!(bank.database().commit(gid(20)).await, Ack::Done);
    for (physical, style) in (21..).zip(STYLES) {
        let mut members: Vec<_> = texts.iter().map(|text| vec![debit(text, 1)]).collect();
        let long = "m1".repeat(100);
        members.extend([vec![debit(&long, 1)], vec![debit("m1🦀", 1)]]);
        let worked = bank.work(physical, &members, style, Then::Hold).await;
        let last = texts.len() * 10;
        assert_eq!(told(&worked), (vec![last, last + 10], "none".to_owned()));
        assert_eq!(bank.batches().prepare_held(gid(physical)).await, Vote::Yes);
        assert_eq!(bank.database().commit(gid(physical)).await, Ack::Done);
    }
    let left = bank.sql("SELECT COUNT(*) FROM accounts WHERE balance = 98");
    assert_eq!(left, texts.len().to_string());
}
