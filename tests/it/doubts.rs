//! Named cases of recovery, identity and capacity, between a real `PostgreSQL` and a real `MariaDB`.
//!
//! Whatever was lost, copied, away or in somebody's way: nothing is half done, nothing of others is
//! touched, and what cannot go on says so by name.

use std::time::{Duration, Instant};

use crate::house::{House, OPENING, across, within};
use crate::pair::{Pair, SIDES, Side, eventually};
use crate::processes;
use crate::proxy::{Moment, Outage};
use crate::server::Served;

/// An answer that takes longer waits for those who are cut off.
const LATE: Duration = Duration::from_secs(10);

fn log_id(house: &House) -> String {
    house.pair.sql(Side::Left, "SELECT log FROM presume.epoch").replace('-', "")
}

/// Prepares a branch that takes 1, as a message of that epoch would that comes late.
async fn prepare_by_hand(house: &House, side: Side, log: &str, epoch: u64, account: usize) {
    let physical = 900;
    let work = format!("UPDATE accounts SET balance = balance - 1 WHERE id = 'a{account}'");
    let sql = match side {
        Side::Left => {
            format!("BEGIN; {work}; PREPARE TRANSACTION 'presume:{log}:{epoch}:{physical}:0'")
        }
        Side::Right => {
            let identity = house.participant(side).await["identity"].as_str().unwrap().to_owned();
            let database = identity.strip_prefix("mysql:").unwrap().to_owned();
            let xid =
                format!("'{log}{epoch:016x}{physical:016x}','presume:0:{database}',1347568979");
            format!("XA START {xid}; {work}; XA END {xid}; XA PREPARE {xid}")
        }
    };
    house.pair.sql(side, &sql);
}

/// A transfer that is decided, and whose commit these participants have not heard of; then the
/// coordinator is killed.
async fn crash_after_the_decision(house: &mut House, id: &str, account: usize, sides: &[Side]) {
    for side in sides {
        let commit = if *side == Side::Left { "COMMIT PREPARED" } else { "XA COMMIT" };
        house.proxy(*side).set(commit, Moment::BeforeItIsSent, Outage::UntilHealed);
    }
    // The answer comes at once, unless a slow disk lets it wait for those who cannot obey.
    let transfer = across(id, account, 1);
    if let Ok(answer) = tokio::time::timeout(LATE, house.answer(&transfer)).await {
        assert_eq!(answer["outcome"], "committed");
    }
    for side in sides {
        house.proxy(*side).sprung().await;
    }
    house.kill();
    for side in sides {
        assert_ne!(house.pair.prepared(*side), "", "{side:?}");
    }
}

/// Ends what stands prepared there as an operator would by hand.
pub async fn end_by_hand(house: &House, side: Side, verb: &str) {
    match side {
        Side::Left => {
            let gid = house.pair.prepared(side);
            house.pair.sql(side, &format!("{verb} PREPARED '{gid}'"));
        }
        Side::Right => {
            let listed = house.pair.sql(side, "XA RECOVER FORMAT='SQL'");
            let xid = listed.split('\t').nth(3).unwrap().to_owned();
            // Its owner was cut off, which the server may not have noticed yet.
            eventually("ended by hand", || {
                house.pair.mysql.try_sql(&format!("XA {verb} {xid}"));
                house.pair.prepared(side).is_empty()
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_data_folder_refuses_to_start_however_often_and_touches_nothing() {
    let Some(mut house) = House::open("").await else { return };
    house.answer(&across("t1", 1, 1)).await;
    house.stop();
    let folder = |name: &str| house.folder().join(name);
    copy(&folder("data"), &folder("old"));
    let (data, old, newer) = (folder("data"), folder("old"), folder("newer"));
    house.start();
    house.answer(&across("t2", 2, 1)).await;
    let log = log_id(&house);
    for side in SIDES {
        prepare_by_hand(&house, side, &log, 2, 3).await;
    }
    house.kill();
    std::fs::rename(&data, &newer).unwrap();
    std::fs::rename(&old, &data).unwrap();
    // However often: each start is a later epoch.
    for _ in 0..3 {
        let said = Served::refused(house.folder());
        assert!(said.contains("old copy") && said.contains("knows epoch 2"), "{said}");
        for side in SIDES {
            assert_ne!(house.pair.prepared(side), "", "{side:?}");
        }
    }
    std::fs::rename(&data, &old).unwrap();
    std::fs::rename(&newer, &data).unwrap();
    house.start();
    house.settled("by the newer one").await;
    house.assert_moved(3, 0, "nobody decided it");
    assert_eq!(house.answer(&across("t2", 2, 1)).await["outcome"], "committed");
    house.assert_moved(2, 1, "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_from_within_the_last_epoch_refuses_to_start_and_leaves_the_newer_log_its_place() {
    let Some(mut house) = House::open("").await else { return };
    house.answer(&across("t1", 1, 1)).await;
    house.settled("before the backup").await;
    let folder = |name: &str| house.folder().join(name);
    let (data, backup, newer) = (folder("data"), folder("backup"), folder("newer"));
    // Of a running process, in one moment.
    processes::pause(house.served().pid());
    copy(&data, &backup);
    processes::resume(house.served().pid());
    // The one commits at both, the other at one of them alone.
    house.answer(&across("t2", 2, 1)).await;
    house.answer(&within("t3", Side::Right, 3, 1)).await;
    house.settled("after the backup").await;
    house.kill();
    std::fs::rename(&data, &newer).unwrap();
    std::fs::rename(&backup, &data).unwrap();
    for again in [false, true] {
        let said = Served::refused(house.folder());
        assert!(said.contains("restored from a backup"), "{said}");
        assert!(said.contains("old copy") == again, "{said}");
    }
    std::fs::rename(&data, &backup).unwrap();
    std::fs::rename(&newer, &data).unwrap();
    house.start();
    assert_eq!(house.answer(&across("t2", 2, 1)).await["outcome"], "committed");
    house.assert_moved(2, 1, "once");
    assert_eq!(house.answer(&across("t4", 4, 1)).await["outcome"], "committed");
}

/// Copies a folder.
pub fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_coordinator_that_a_copy_overtook_answers_nothing_that_the_copy_undid() {
    let Some(mut house) = House::build("", |sections| sections).await else { return };
    let file = house.folder().join("presume.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("= 3000", "= 60000");
    std::fs::write(&file, text).unwrap();
    house.start();
    house.works().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let transfer = across("t1", 1, 1);
    house.proxy(Side::Right).set("XA PREPARE", Moment::HeldBack, Outage::OneConnection);
    let mut answer = std::pin::pin!(house.submit(&transfer));
    let overtaken = async {
        house.proxy(Side::Right).sprung().await;
        let prepared = |side| !house.pair.prepared(side).is_empty();
        eventually("prepared at the left", || prepared(Side::Left)).await;
        processes::pause(house.served().pid());
        // Its vote waits in the stopped process.
        house.proxy(Side::Right).let_go();
        eventually("prepared at the right", || prepared(Side::Right)).await;
        let copied = elsewhere.path().join("copy");
        copy(house.folder(), &copied);
        let copied = Served::start(&copied, &[]);
        eventually("undone", || !prepared(Side::Left) && !prepared(Side::Right)).await;
        processes::resume(house.served().pid());
        // Both have voted yes, and it knows of nobody else.
        while house.get("/v1/transactions/t1").await["unresolved"]["decision"] != "commit" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        copied
    };
    let copied = tokio::select! {
        copied = overtaken => copied,
        answer = &mut answer => panic!("answered {answer:?}"),
    };
    // As long as it may take to be wrong.
    let wrong = tokio::time::timeout(Duration::from_secs(1), answer).await;
    assert!(wrong.is_err(), "answered {wrong:?}");
    assert_eq!(house.get("/v1/transactions/t1").await["status"], "in_flight");
    house.assert_moved(1, 0, "undone by the copy");
    let answer = crate::load::submit(&house.client, &copied.url, &transfer).await.unwrap();
    assert_eq!(answer["outcome"], "committed", "by the copy, which never heard of it");
    house.pair.settled("by the copy").await;
    house.assert_moved(1, 1, "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_store_under_the_same_name_lists_the_branches_of_the_lost_one_and_leaves_them() {
    let Some(mut house) = House::open("").await else { return };
    let lost = log_id(&house);
    // Decided, and half applied: the lost log alone knows.
    crash_after_the_decision(&mut house, "half", 1, &[Side::Left]).await;
    house.proxy(Side::Left).heal();
    let (data, aside) = (house.folder().join("data"), house.folder().join("lost"));
    std::fs::rename(&data, &aside).unwrap();
    house.start();
    house.ready(Side::Left).await;
    loop {
        let foreign = house.participant(Side::Left).await["foreign"].to_string();
        if foreign.contains(&lost) {
            break;
        }
    }
    assert_eq!(house.answer(&across("t2", 2, 1)).await["outcome"], "committed");
    looks(&house, 3).await;
    assert!(house.pair.prepared(Side::Left).contains(&lost));
    assert_eq!(house.pair.balance(Side::Right, 1), OPENING + 1);
    house.stop();
    // The folder is found again, and finishes what it had decided.
    std::fs::rename(&data, house.folder().join("new")).unwrap();
    std::fs::rename(&aside, &data).unwrap();
    house.start();
    house.settled("by the log that was lost").await;
    house.assert_moved(1, 1, "whole");
}

/// Waits until so many looks at what stands prepared have been taken since: each finds a branch that
/// was put there for it.
async fn looks(house: &House, count: u64) {
    let newest = "SELECT log FROM presume.epoch ORDER BY claimed_at DESC LIMIT 1";
    let log = house.pair.sql(Side::Left, newest).replace('-', "");
    for _ in 0..count {
        prepare_by_hand(house, Side::Left, &log, 0, 99).await;
        eventually("a look", || !house.pair.prepared(Side::Left).contains(":0:900:0")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn start_refuses_by_name_when_a_branch_in_doubt_has_lost_its_participant() {
    let Some(mut house) = House::open("").await else { return };
    let file = house.folder().join("presume.toml");
    let whole = std::fs::read_to_string(&file).unwrap();
    let right = whole.find("[participants.right]").unwrap();
    let left = whole.find("[participants.left]").unwrap();
    for (account, side) in SIDES.into_iter().enumerate() {
        crash_after_the_decision(&mut house, side.name(), account, &[side]).await;
        house.proxy(side).heal();
        let without = match side {
            Side::Left => format!("{}{}", &whole[..left], &whole[right..]),
            Side::Right => whole[..right].to_owned(),
        };
        std::fs::write(&file, without).unwrap();
        let said = Served::refused(house.folder());
        let named = format!("participant {}, which is not configured", side.name());
        assert!(said.contains(&named), "{said}");
        assert_ne!(house.pair.prepared(side), "");
        std::fs::write(&file, &whole).unwrap();
        house.start();
        house.settled("with its participant back").await;
        house.assert_moved(account, 1, "decided before");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_prepared_is_listed_and_left_alone_by_a_whole_server() {
    let Some(house) = House::open("").await else { return };
    let work = "UPDATE accounts SET balance = 5 WHERE id = 'a9'";
    let sql = format!("BEGIN; {work}; PREPARE TRANSACTION 'somebody'");
    house.pair.sql(Side::Left, &sql);
    let sql = format!("XA START 'somebody'; {work}; XA END 'somebody'; XA PREPARE 'somebody'");
    house.pair.sql(Side::Right, &sql);
    for side in SIDES {
        while !house.participant(side).await["foreign"].to_string().contains("somebody") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(house.answer(&across("t1", 1, 1)).await["outcome"], "committed");
    looks(&house, 2).await;
    for side in SIDES {
        assert!(house.pair.prepared(side).contains("somebody"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_prepared_slots_decline_clearly_and_leak_nothing() {
    let Some(pair) = Pair::start_with(4, crate::house::ACCOUNTS, OPENING) else { return };
    let mut house = House::around(pair, "", |sections| sections).await;
    house.start();
    // Somebody else has them all, those that were left to others and ours.
    for n in 0..4 {
        let sql = format!(
            "BEGIN; UPDATE accounts SET balance = 1 WHERE id = 'a{}'; \
             PREPARE TRANSACTION 'somebody-{n}'",
            90 + n
        );
        house.pair.sql(Side::Left, &sql);
    }
    for n in 0..6 {
        let answer = house.answer(&across(&format!("full-{n}"), n, 1)).await;
        assert_eq!(answer["outcome"], "aborted");
        assert!(answer["reasons"].to_string().contains("prepared_slots_exhausted"), "{answer}");
        house.assert_moved(n, 0, "declined");
    }
    for n in 0..4 {
        house.pair.sql(Side::Left, &format!("ROLLBACK PREPARED 'somebody-{n}'"));
    }
    // More than there are places: each was given back.
    for n in 0..6 {
        let answer = house.answer(&across(&format!("free-{n}"), n, 1)).await;
        assert_eq!(answer["outcome"], "committed", "{answer}");
        house.settled("a place is free again").await;
        house.assert_moved(n, 1, "committed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_away_at_start_is_503_for_those_who_need_it_and_stops_no_other() {
    let Some(mut house) = House::open("").await else { return };
    crash_after_the_decision(&mut house, "doubt", 1, &SIDES).await;
    house.proxy(Side::Right).heal();
    house.start();
    // What was decided is carried out where that can be done.
    eventually("settled on the right", || house.pair.prepared(Side::Right).is_empty()).await;
    assert_eq!(house.pair.balance(Side::Right, 1), OPENING + 1);
    let (status, again, body) = house.submit(&across("t2", 2, 1)).await;
    assert_eq!((status, again), (503, true), "{body}");
    assert!(body["detail"].as_str().unwrap().contains("left"), "{body}");
    let alone = house.answer(&within("t3", Side::Right, 3, 5)).await;
    assert_eq!(alone["outcome"], "committed");
    assert_ne!(house.pair.prepared(Side::Left), "");

    house.proxy(Side::Left).heal();
    house.ready(Side::Left).await;
    house.settled("once it is here").await;
    house.assert_moved(1, 1, "decided before");
    assert_eq!(house.answer(&across("t2", 2, 1)).await["outcome"], "committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepare_of_an_older_epoch_that_lands_after_the_first_look_is_rolled_back() {
    let Some(mut house) = House::open("").await else { return };
    house.kill();
    house.start();
    let log = log_id(&house);
    for side in SIDES {
        prepare_by_hand(&house, side, &log, 1, 1).await;
        assert_eq!(house.pair.balance(side, 1), OPENING);
    }
    house.settled("late prepares").await;
    house.assert_moved(1, 0, "nobody decided it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_held_back_by_the_network_finds_its_session_ended() {
    let Some(mut house) = House::open("").await else { return };
    for (account, side) in SIDES.into_iter().enumerate() {
        let prepare = if side == Side::Left { "PREPARE TRANSACTION" } else { "XA PREPARE" };
        house.proxy(side).set(prepare, Moment::HeldBack, Outage::OneConnection);
        let transfer = across(&format!("held-{account}"), account, 1);
        let (url, client) = (house.served().url.clone(), house.client.clone());
        let asked = tokio::spawn(async move {
            crate::load::submit(&client, &url, &transfer).await;
        });
        house.proxy(side).sprung().await;
        house.kill();
        asked.await.unwrap();
        house.start();
        house.proxy(side).let_go();
        house.settled("held back").await;
        looks(&house, 1).await;
        house.settled("held back").await;
        house.assert_moved(account, 0, "nobody decided it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_finds_its_branch_gone_is_done_with_a_marker_and_heuristic_without() {
    let Some(mut house) = House::open("").await else { return };
    for (n, side) in SIDES.into_iter().enumerate() {
        for (verb, outcome) in [("COMMIT", "committed"), ("ROLLBACK", "heuristic")] {
            let account = 2 * n + usize::from(verb == "COMMIT");
            let id = format!("{verb}-{account}");
            crash_after_the_decision(&mut house, &id, account, &[side]).await;
            house.proxy(side).heal();
            end_by_hand(&house, side, verb).await;
            house.start();
            house.settled("by hand").await;
            let path = format!("/v1/transactions/{id}");
            if outcome == "heuristic" {
                while house.get(&path).await["outcome"] != outcome {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                let answer = house.get(&path).await.to_string();
                assert!(answer.contains(side.name()), "{answer}");
            } else {
                house.assert_moved(account, 1, "committed by hand");
            }
            house.kill();
            // Nothing of it is in doubt any more, and the answer stays.
            house.start();
            assert_eq!(house.get(&path).await["outcome"], outcome);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_folder_is_refused_by_name() {
    let Some(house) = House::open("").await else { return };
    let said = Served::refused(house.folder());
    assert!(said.contains("decision-log") && said.contains("in use"), "{said}");
    assert_eq!(house.answer(&across("t1", 1, 1)).await["outcome"], "committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_stays_prepared_is_told_of_with_its_age() {
    let long = |sections: String| {
        sections.replace("listening_horizon_ms = 2000", "listening_horizon_ms = 60000")
    };
    let alert = "prepared_age_alert_ms = 300";
    let Some(mut house) = House::build(alert, long).await else { return };
    house.start();
    // The session that owns the branch lives, and only its answer is lost: nobody else can end it.
    let right = house.proxy(Side::Right);
    right.set("XA PREPARE", Moment::BeforeItIsAnswered, Outage::OneConnection);
    assert_eq!(house.answer(&across("t1", 1, 1)).await["outcome"], "aborted");
    loop {
        let prepared = house.participant(Side::Right).await["prepared"].clone();
        if prepared.as_object().unwrap().values().any(|age| age.as_f64().unwrap() > 0.3) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    house.logged("a branch stays prepared").await;
    right.cut(Outage::OneConnection);
    house.settled("its session is gone").await;
    house.assert_moved(1, 0, "aborted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_finds_one_answer_when_it_comes_again() {
    let Some(house) = House::open("").await else { return };
    let hasty = reqwest::Client::builder().timeout(Duration::from_millis(2)).build().unwrap();
    let transfers: Vec<_> = (0..40).map(|n| across(&format!("gone-{n}"), n, 1)).collect();
    for transfer in &transfers {
        let _ = crate::load::submit(&hasty, &house.served().url, transfer).await;
    }
    for (account, transfer) in transfers.iter().enumerate() {
        let answer = house.answer(transfer).await;
        assert_eq!(answer["outcome"], "committed", "{answer}");
        assert_eq!(house.answer(transfer).await["outcome"], "committed");
        house.settled("applied").await;
        house.assert_moved(account, 1, "once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_phase_two_are_repeated_ever_more_rarely() {
    let Some(house) = House::open("").await else { return };
    let left = house.proxy(Side::Left);
    left.set("COMMIT PREPARED", Moment::BeforeItIsSent, Outage::UntilHealed);
    assert_eq!(house.answer(&across("t1", 1, 1)).await["outcome"], "committed");
    left.sprung().await;
    let started = Instant::now();
    left.refused(40).await;
    // Waits double from 10 ms to 200 ms, each shortened by up to half; a look comes every 200 ms.
    assert!(started.elapsed() > Duration::from_millis(1_500), "{:?}", started.elapsed());
    left.heal();
    house.settled("healed").await;
    house.assert_moved(1, 1, "decided before");
}
