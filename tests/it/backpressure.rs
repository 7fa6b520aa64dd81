//! A participant that votes and hears no decision fills a bounded backlog; then others hear of it.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use crate::house::{ACCOUNTS, House, OPENING, across, within};
use crate::pair::Side;

const UNFINISHED_MAX: u64 = 24;

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_phase_two_is_bounded_and_refuses_with_retry_after_until_it_is_gone() {
    let limits = format!("in_flight_max = 16\nunfinished_max = {UNFINISHED_MAX}");
    let Some(house) = House::open(&limits).await else { return };
    let left = house.proxy(Side::Left);
    left.bar(Some("COMMIT PREPARED"));

    // Each client asks for another transfer as soon as it has heard of the one before.
    let (next, refused, committed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicI64::new(0));
    // Whose votes are old by the decision is answered once it is obeyed.
    let later = std::sync::Mutex::new(Vec::new());
    let one = async |_: usize| {
        while refused.load(Ordering::SeqCst) < 500 || house.unfinished().await < UNFINISHED_MAX {
            let n = next.fetch_add(1, Ordering::SeqCst);
            let transfer = across(&format!("t{n}"), n % ACCOUNTS, 1);
            let (status, again, body) = house.submit(&transfer).await;
            match status {
                // The row may be one that a transfer before it still holds.
                200 if body["outcome"] == "aborted" => {}
                200 => {
                    assert_eq!(body["outcome"], "committed", "{body}");
                    committed.fetch_add(1, Ordering::SeqCst);
                }
                202 => later.lock().unwrap().push(transfer),
                429 => {
                    assert!(again, "{body}");
                    refused.fetch_add(1, Ordering::SeqCst);
                }
                _ => panic!("{status}: {body}"),
            }
        }
    };
    futures_util::future::join_all((0..32).map(one)).await;

    // It is full once those that were aborted have left and others have come in their place: from
    // then on nothing is let in to wait, and no more is remembered than the limit says.
    let (mut refused_in_a_row, mut tried) = (0, 0);
    while refused_in_a_row < 100 {
        assert!(tried < 2_000, "it never fills");
        let transfer = across(&format!("full{tried}"), tried % ACCOUNTS, 1);
        tried += 1;
        let (status, again, body) = house.submit(&transfer).await;
        assert!(house.unfinished().await <= UNFINISHED_MAX);
        if status == 200 {
            refused_in_a_row = 0;
            let counted = i64::from(body["outcome"] == "committed");
            committed.fetch_add(counted, Ordering::SeqCst);
            continue;
        }
        if status == 202 {
            later.lock().unwrap().push(transfer);
            continue;
        }
        refused_in_a_row += 1;
        assert_eq!((status, again), (429, true), "{body}");
        let detail = body["detail"].as_str().unwrap();
        assert!(detail.contains(&UNFINISHED_MAX.to_string()), "{detail}");
    }

    left.bar(None);
    house.settled("once it hears").await;
    for transfer in later.into_inner().unwrap() {
        let counted = i64::from(house.answer(&transfer).await["outcome"] == "committed");
        committed.fetch_add(counted, Ordering::SeqCst);
    }
    assert_eq!(house.answer(&across("after", 50, 1)).await["outcome"], "committed");
    house.settled("as before").await;
    let sum = |side: Side| house.pair.balances(side).iter().sum::<i64>();
    let opened = OPENING * i64::try_from(ACCOUNTS).unwrap();
    let moved = committed.load(Ordering::SeqCst) + 1;
    assert_eq!((sum(Side::Left), sum(Side::Right)), (opened - moved, opened + moved));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_participant_that_hears_no_decision_keeps_transactions_from_itself_alone() {
    const LIMIT: usize = 8;
    let limits = format!("unfinished_per_participant_max = {LIMIT}");
    let Some(house) = House::open(&limits).await else { return };
    let left = house.proxy(Side::Left);
    left.bar(Some("COMMIT PREPARED"));
    for n in 0..LIMIT {
        let (status, _, body) = house.submit(&across(&format!("t{n}"), n, 1)).await;
        assert_eq!((status, &body["outcome"]), (200, &"committed".into()), "{body}");
    }
    let (status, again, body) = house.submit(&across("more", LIMIT, 1)).await;
    assert_eq!((status, again), (503, true), "{body}");
    let detail = body["detail"].as_str().unwrap();
    assert!(detail.contains("left") && detail.contains(&LIMIT.to_string()), "{detail}");
    // Whoever does not need it goes on.
    let other = house.answer(&within("other", Side::Right, 50, 1)).await;
    assert_eq!(other["outcome"], "committed");
    left.bar(None);
    house.settled("once it hears").await;
    assert_eq!(house.answer(&across("more", LIMIT, 1)).await["outcome"], "committed");
}
