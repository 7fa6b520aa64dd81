//! Batches: what an answer comes to, and how large the next one may be.

use std::sync::Arc;

use super::super::batch::{MEMBERS_MAX, Room, judge};
use super::super::messages::BatchRequest;
use super::*;
use crate::participants::batch::{Batch, Member, Style, Then, Worked};

/// A batch of three, whose places are 10, 20 and 30.
fn batch(then: Then) -> Batch {
    let operation = Operation {
        participant: "wallet".parse().unwrap(),
        operation: "debit".parse().unwrap(),
        params: serde_json::from_value(json!({"account": "a"})).unwrap(),
    };
    let member = |place| Member { place, operations: vec![operation.clone()].into() };
    let members = [10, 20, 30].map(member).to_vec().into();
    let lock_wait_max = Duration::from_secs(1);
    Batch { gid: gid(), members, style: Style::Together, keys_shared: true, lock_wait_max, then }
}

/// What the participant says of a batch, and the vote that it keeps.
fn told(then: Then, answer: &Value) -> String {
    let reply = Reply { status: 200, body: Bytes::from(answer.to_string()) };
    let (worked, held) = judge(&batch(then), answers::batch(Ok(reply)));
    let worked = match worked {
        Worked::Done { declined, vote } => {
            let places: Vec<_> = declined.iter().map(|(place, _)| *place).collect();
            format!("done {places:?} {vote:?}")
        }
        Worked::Failed { why: Declined::Business { code, .. }, culprit } => {
            format!("failed business {code} {culprit:?}")
        }
        Worked::Failed { why: Declined::Technical { code, .. }, culprit } => {
            format!("failed technical {code} {culprit:?}")
        }
        Worked::Unknown(detail) => format!("unknown: {detail}"),
    };
    held.map_or(worked.clone(), |held| format!("{worked}, held {held:?}"))
}

fn answer(vote: &str, declined: &[(i64, &str)]) -> Value {
    let one = |(member, class): &(i64, &str)| json!({"member": member, "class": class, "code": "funds", "detail": ""});
    let declined: Vec<_> = declined.iter().map(one).collect();
    let mut answer = json!({"vote": vote, "declined": declined});
    if vote == "no" {
        answer["class"] = "technical".into();
        answer["code"] = "busy".into();
        answer["detail"] = "".into();
    }
    answer
}

#[test]
fn an_answer_names_those_who_declined_by_their_places_in_the_batch() {
    let business = |members: &[i64]| -> Vec<(i64, &str)> {
        members.iter().map(|member| (*member, "business")).collect()
    };
    for (then, vote, members, expected) in [
        (Then::Prepare, "yes", &[][..], "done [] Some(Yes)"),
        (Then::Prepare, "read_only", &[], "done [] Some(ReadOnly)"),
        (Then::Prepare, "no", &[], "failed technical busy None"),
        (Then::Prepare, "no", &[2, 0], "done [10, 30] None"),
        (Then::Hold, "yes", &[], "done [] None, held Yes"),
        (Then::Hold, "yes", &[1], "done [20] None, held Yes"),
        (Then::Hold, "read_only", &[0, 1, 2], "done [10, 20, 30] None, held ReadOnly"),
        // Nobody is left to be prepared: no is as good.
        (Then::Hold, "no", &[0, 1, 2], "done [10, 20, 30] None"),
        // Whoever is not the reason for a no is not declined.
        (Then::Hold, "no", &[0], "failed technical busy None"),
    ] {
        let found = told(then, &answer(vote, &business(members)));
        assert_eq!(found, expected, "{then:?} {vote} {members:?}");
    }
    assert_eq!(told(Then::Prepare, &json!({"vote": "yes"})), "done [] Some(Yes)");
}

#[test]
fn an_answer_that_cannot_be_true_declines_nobody_and_says_what_is_wrong() {
    let one = "business";
    for (then, answer, why) in [
        (Then::Hold, answer("yes", &[(3, one)]), "names member 3 of 3, counted from 0"),
        (Then::Hold, answer("yes", &[(0, one), (1, one), (0, one)]), "names member 0 twice"),
        (
            Then::Hold,
            answer("yes", &[(0, one), (1, one), (2, one), (3, one), (4, one)]),
            "names member 3 of 3",
        ),
        (Then::Hold, answer("yes", &[(1, "technical")]), "member 1 declined by class technical"),
        (Then::Prepare, answer("no", &[(9, one)]), "names member 9 of 3"),
        (Then::Prepare, answer("yes", &[(1, one)]), "votes yes although 1 of 3 members declined"),
        (Then::Prepare, answer("read_only", &[(1, one)]), "although 1 of 3 members declined"),
        (Then::Hold, answer("yes", &[(-1, one)]), "cannot be read"),
        (Then::Hold, answer("maybe", &[]), "cannot be read"),
        (Then::Hold, json!({"declined": []}), "cannot be read"),
        (Then::Hold, json!({"vote": "yes", "declined": [{"member": 0}]}), "cannot be read"),
        (Then::Hold, json!({"vote": "yes", "declined": {"0": one}}), "cannot be read"),
        (Then::Hold, json!([]), "cannot be read"),
    ] {
        let found = told(then, &answer);
        assert!(found.starts_with("unknown: ") && found.contains(why), "{answer}: {found}");
    }
}

fn service(capabilities: &[&str], members_max: Option<u64>) -> Description {
    let mut described = json!({
        "protocol": PROTOCOL, "identity": "wallet:1", "outcome_retention_s": 86_400,
        "capabilities": capabilities, "body_bytes_max": 4096, "operations": [],
    });
    if let Some(members_max) = members_max {
        described["batch_members_max"] = members_max.into();
    }
    serde_json::from_value(described).unwrap()
}

#[test]
fn a_service_has_batches_if_it_says_so_and_as_large_as_it_says() {
    let members = |capabilities: &[&str], max| Room::at(&service(capabilities, max)).members();
    assert_eq!(members(&[], None), 0);
    assert_eq!(members(&["one_phase", "batch/2", "later"], Some(9)), 0);
    assert_eq!(members(&["batch"], None), MEMBERS_MAX);
    assert_eq!(members(&["one_phase", "batch"], Some(9)), 9);
    assert_eq!(members(&["batch"], Some(u64::MAX)), MEMBERS_MAX);
    let findings = check::findings(&service(&["batch"], Some(0)));
    let fault = findings.iter().find(|found| !found.ok).unwrap().to_string();
    assert!(fault.contains("at most 0 members (batch_members_max)"), "{fault}");
}

#[test]
fn a_batch_that_was_too_large_makes_the_next_smaller_and_those_that_fit_let_it_grow() {
    let room = Room::at(&service(&["batch"], Some(300)));
    room.too_large(256, 40_000, 10_000);
    assert_eq!(room.members(), 64);
    room.fitted(63);
    assert_eq!(room.members(), 64);
    room.fitted(64);
    assert_eq!(room.members(), 65);
    room.too_large(65, 10_001, 10_000);
    assert_eq!(room.members(), 64);
    room.too_large(2, 1 << 40, 10_000);
    assert_eq!(room.members(), 2);
    for _ in 0..400 {
        room.fitted(room.members());
    }
    assert_eq!(room.members(), 300);
    // Of a service that takes one at a time there is nothing to grow or shrink.
    let one = Room::at(&service(&["batch"], Some(1)));
    one.too_large(2, 10_001, 10_000);
    one.fitted(1);
    assert_eq!(one.members(), 1);
    let none = Room::at(&service(&[], None));
    none.fitted(1);
    none.too_large(2, 10_001, 10_000);
    assert_eq!(none.members(), 0);
}

fn claimed(service: Description) -> Http {
    let http = Http::new(&options("http://127.0.0.1:1", |_| {})).unwrap();
    let room = Room::at(&service);
    let claimed = Claimed { epoch: Epoch(1), service, room };
    http.0.claimed.store(Some(Arc::new(claimed)));
    http
}

#[tokio::test]
async fn what_is_over_a_limit_is_not_sent_and_the_error_names_both() {
    let debit = json!([{"name": "debit", "parameters": [{"name": "account", "type": "string"}]}]);
    let with = |members_max: u64, bytes_max: usize| {
        let mut service = service(&["batch"], Some(members_max));
        service.operations = serde_json::from_value(debit.clone()).unwrap();
        service.body_bytes_max = bytes_max;
        claimed(service)
    };
    for (http, why) in [
        (with(2, 4096), "3 members in a batch, the service takes 2"),
        (with(3, 100), "bytes, the service takes 100"),
    ] {
        let worked = http.batches().unwrap().work(batch(Then::Hold)).await;
        let Worked::Failed { why: Declined::Technical { code, detail }, culprit: None } = worked
        else {
            panic!("{worked:?}")
        };
        assert!(code == "batch_too_large" && detail.contains(why), "{code}: {detail}");
        assert!(http.0.holdings.lock().unwrap().is_empty());
    }
    // Nobody listens there, and nothing is held then.
    let http = with(3, 4096);
    let worked = http.batches().unwrap().work(batch(Then::Hold)).await;
    assert!(matches!(worked, Worked::Failed { culprit: None, .. }), "{worked:?}");
    assert!(http.0.holdings.lock().unwrap().is_empty());
}

#[test]
fn a_batch_is_sent_in_the_form_of_the_document() {
    let document = document();
    let schema = &document["components"]["schemas"]["Batch"];
    for (then, drop_declined) in [(Then::Prepare, false), (Then::Hold, true)] {
        let sent = BatchRequest::new("wallet:1", Epoch(1), &batch(then)).bytes();
        let sent: Value = serde_json::from_slice(&sent).unwrap();
        let keys: BTreeSet<&str> = sent.as_object().unwrap().keys().map(String::as_str).collect();
        let properties = schema["properties"].as_object().unwrap();
        assert_eq!(keys, properties.keys().map(String::as_str).collect());
        assert_eq!(schema["required"].as_array().unwrap().len(), keys.len());
        assert_eq!(sent["drop_declined"], drop_declined);
        assert_eq!(sent["members"][2], json!([{"operation": "debit", "params": {"account": "a"}}]));
    }
    assert_eq!(schema["properties"]["members"]["maxItems"], MEMBERS_MAX);
}
