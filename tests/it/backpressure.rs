//! A participant that does not answer phase two fills a bounded backlog; then others hear of it.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::house::{House, across};
use crate::pair::{Side, eventually};

const UNFINISHED_MAX: u64 = 24;

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_phase_two_is_bounded_and_refuses_with_retry_after_until_it_is_gone() {
    let limits = format!("in_flight_max = 16\nunfinished_max = {UNFINISHED_MAX}");
    // More sessions than that: without a session a branch is a certain no, and leaves no backlog.
    let sessions = |sections: String| {
        sections.replace("connect_timeout_ms", "connections_max = 64\nconnect_timeout_ms")
    };
    let Some(mut house) = House::build(&limits, sessions).await else { return };
    house.start();
    assert_eq!(house.answer(&across("t0", 0, 1)).await["outcome"], "committed");
    house.pair.settled("before").await;
    house.pair.postgres.pause();

    // Each client asks for another transfer as soon as it has heard of the one before.
    let (next, refused) = (AtomicUsize::new(1), AtomicUsize::new(0));
    let one = async |_: usize| {
        while refused.load(Ordering::SeqCst) < 500 {
            let n = next.fetch_add(1, Ordering::SeqCst);
            let (status, again, body) = house.submit(&across(&format!("t{n}"), n % 100, 1)).await;
            match status {
                // Not prepared in time: aborted, and the branch is to be told.
                200 => assert_eq!(body["outcome"], "aborted", "{body}"),
                429 | 503 => {
                    assert!(again, "{body}");
                    refused.fetch_add(1, Ordering::SeqCst);
                }
                _ => panic!("{status}: {body}"),
            }
        }
    };
    futures_util::future::join_all((0..64).map(one)).await;

    // It is full now: nothing is let in to wait, and no more is remembered than the limit says.
    while house.unfinished().await < UNFINISHED_MAX {
        let n = next.fetch_add(1, Ordering::SeqCst);
        house.submit(&across(&format!("t{n}"), n % 100, 1)).await;
    }
    for n in 0..100 {
        let (status, again, body) = house.submit(&across(&format!("full{n}"), n, 1)).await;
        assert_eq!((status, again), (429, true), "{body}");
        let detail = body["detail"].as_str().unwrap();
        assert!(detail.contains(&UNFINISHED_MAX.to_string()), "{detail}");
        assert_eq!(house.unfinished().await, UNFINISHED_MAX);
    }

    house.pair.postgres.resume();
    house.settled("once it answers").await;
    let sum = |side: Side| house.pair.balances(side).iter().sum::<i64>();
    let opened = crate::house::OPENING * i64::try_from(crate::house::ACCOUNTS).unwrap();
    assert_eq!((sum(Side::Left), sum(Side::Right)), (opened - 1, opened + 1));
    assert_eq!(house.answer(&across("after", 50, 1)).await["outcome"], "committed");
    eventually("applied", || sum(Side::Left) == opened - 2).await;
}
