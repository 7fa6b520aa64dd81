//! What is stored, byte by byte, now and in format 1.

use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::json;

use super::super::packed::{Packer, Sheaf};
use super::*;
use crate::txn::{
    BranchPlan, Insights, LatencyPrediction, ParticipantName, Prediction, Probability, Reason,
    ReasonCode, ServedBy,
};

/// Any text: short and long, none, odd, nearly an id or a hash.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,12}",
        Just(String::new()),
        Just("\u{0}\n\"{é𝄞".to_owned()),
        "[0-9a-fA-F]{31,33}",
        "x{120,400}",
    ]
}

fn txn_id() -> impl Strategy<Value = TxnId> {
    prop_oneof!["[0-9a-f]{32}", "[0-9A-Fa-f]{32}", "[a-z0-9é-]{1,30}", "x{128}"]
        .prop_map(|text| TxnId::new(&text).unwrap())
}

fn name() -> impl Strategy<Value = ParticipantName> {
    prop_oneof!["[ab]", "[a-zé]{1,60}"].prop_map(|text| ParticipantName::new(&text).unwrap())
}

/// Any bits: infinities, either zero, NaN of every kind.
fn real() -> impl Strategy<Value = f64> {
    prop_oneof![any::<u64>().prop_map(f64::from_bits), -9.0..9.0, Just(1.0), Just(f64::NAN)]
}

fn feature() -> impl Strategy<Value = f32> {
    prop_oneof![any::<u32>().prop_map(f32::from_bits), Just(0.0), Just(1.0), Just(f32::NAN)]
}

fn instant() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp::from_micros)
}

fn probability() -> impl Strategy<Value = Probability> {
    (0.0..=1.0).prop_map(|value| Probability::new(value).unwrap())
}

fn one_of<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
    proptest::sample::select(all)
}

fn reasons() -> impl Strategy<Value = Vec<Reason>> {
    let reason = (one_of(ReasonCode::ALL), text());
    proptest::collection::vec(reason.prop_map(|(code, detail)| Reason::new(code, detail)), 0..3)
}

fn prediction() -> impl Strategy<Value = Prediction> {
    let by = || one_of(ServedBy::ALL);
    let latency = (name(), real(), real(), by()).prop_map(|(participant, median, upper, by)| {
        LatencyPrediction { participant, median_ms: median, upper_ms: upper, served_by: by }
    });
    let latency = proptest::collection::vec(latency, 0..3);
    (probability(), by(), probability(), by(), latency, text()).prop_map(
        |(success, success_by, fraud, fraud_by, latency, model_version)| Prediction {
            success,
            success_by,
            fraud,
            fraud_by,
            latency,
            model_version,
        },
    )
}

fn plan() -> impl Strategy<Value = Plan> {
    let branch = (name(), any::<u64>(), 0..1_000_000_000_u32).prop_map(|(participant, s, ns)| {
        BranchPlan { participant, prepare_timeout: Duration::new(s, ns) }
    });
    let admission = one_of(&[Admission::Admit, Admission::Reject]);
    let branches = proptest::collection::vec(branch, 0..3);
    let modes = one_of(Mode::ALL);
    (admission, one_of(Protocol::ALL), branches, reasons(), modes).prop_map(
        |(admission, protocol, branches, reasons, mode)| Plan {
            admission,
            protocol,
            branches,
            reasons,
            mode,
        },
    )
}

fn leg() -> impl Strategy<Value = OutcomeLeg> {
    let maybe = || proptest::option::of(real());
    let vote = proptest::option::of(one_of(LegVote::ALL));
    (name(), vote, maybe(), real(), maybe(), any::<u32>(), real()).prop_map(
        |(participant, vote, prepare_ms, timeout_ms, late_ms, in_flight, health)| OutcomeLeg {
            participant,
            vote,
            prepare_ms,
            timeout_ms,
            late_ms,
            in_flight,
            health,
        },
    )
}

fn any_row() -> impl Strategy<Value = OutcomeRow> {
    let maybe = || proptest::option::of(real());
    let payment = (text(), text(), text(), proptest::option::of(instant()));
    let payment = (payment, proptest::option::of(text()), any::<i64>(), text(), any::<[bool; 3]>());
    let place = (maybe(), maybe(), any::<u32>(), maybe());
    let end = (one_of(Outcome::ALL), proptest::option::of(text()), any::<u64>());
    let codes = proptest::collection::vec(text(), 0..3);
    let features = proptest::collection::vec(feature(), 0..50);
    let served = (features, proptest::option::of(prediction()), plan());
    let legs = proptest::collection::vec(leg(), 0..4);
    (txn_id(), instant(), payment, place, end, codes, served, legs).prop_map(
        |(txn_id, timestamp, payment, place, end, reasons, served, mut legs)| {
            let ((kind, customer, segment, since), counterparty, amount, currency, flags) = payment;
            let (features, prediction, plan) = served;
            if flags[2] {
                for (leg, branch) in legs.iter_mut().zip(&plan.branches) {
                    leg.timeout_ms = branch.prepare_timeout.as_secs_f64() * 1e3;
                }
            }
            OutcomeRow {
                txn_id,
                timestamp,
                kind,
                customer_id: customer,
                customer_type: segment,
                customer_since: since,
                counterparty_id: counterparty,
                amount_minor: amount,
                currency,
                cross_border: flags[0],
                requires_consistency: flags[1],
                lat: place.0,
                lon: place.1,
                attempt: place.2,
                system_load_ratio: place.3,
                outcome: end.0,
                failure_class: end.1,
                reasons,
                total_us: end.2,
                features,
                prediction,
                plan,
                legs,
            }
        },
    )
}

fn any_answer() -> impl Strategy<Value = AnswerRecord> {
    let latency = proptest::collection::btree_map(text(), real(), 0..3);
    let models = proptest::collection::btree_map(text(), text(), 0..3);
    let insights = (probability(), probability(), real(), real(), any::<bool>(), latency, models);
    let insights =
        insights.prop_map(|(success, fraud, timeout, confidence, own, latency, models)| Insights {
            success_probability: success,
            fraud_probability: fraud,
            timeout_ms: timeout,
            confidence: if own { confidence } else { (2.0 * success.get() - 1.0).abs() },
            latency_ms: latency,
            models,
        });
    let timings = (real(), real(), real(), real());
    let timings = timings.prop_map(|(predict, prepare, commit, total)| Timings {
        predict,
        prepare,
        commit,
        total,
    });
    let head = (txn_id(), one_of(Outcome::ALL), reasons(), any::<bool>());
    let names = proptest::collection::vec(name(), 0..3);
    let hash = prop_oneof!["[0-9a-f]{64}", "[0-9A-F]{64}", text()];
    (head, names, proptest::option::of(insights), timings, hash, instant()).prop_map(
        |((id, outcome, reasons, protocol), participants, insights, timings_ms, hash, at)| {
            let answer = Answer {
                id,
                outcome,
                reasons,
                protocol: protocol.then_some(Protocol::TwoPhase),
                participants,
                insights,
                timings_ms,
            };
            AnswerRecord { answer, request_hash: hash, at }
        },
    )
}

/// Equal, NaN included.
fn assert_same<T: std::fmt::Debug>(left: &[T], right: &[T]) -> Result<(), TestCaseError> {
    prop_assert_eq!(format!("{left:?}"), format!("{right:?}"));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn rows_come_back_as_they_were(given in proptest::collection::vec(any_row(), 1..6)) {
        let value = rows::encode(given.iter());
        prop_assert_eq!(rows::count(&value), Ok(given.len() as u64));
        let read = rows::decode(&value).unwrap();
        assert_same(&given, &read)?;
        let bits = |rows: &[OutcomeRow]| -> Vec<u32> {
            rows.iter().flat_map(|row| &row.features).map(|value| value.to_bits()).collect()
        };
        prop_assert_eq!(bits(&given), bits(&read));
        prop_assert_eq!(rows::encode(read.iter()), value);
    }

    #[test]
    fn answers_come_back_as_they_were(given in proptest::collection::vec(any_answer(), 1..6)) {
        let value = answers::encode(given.iter().map(AnswerRecord::given));
        assert_same(&given, &answers::decode(&value).unwrap())?;
        for (position, record) in (0..).zip(&given) {
            let read = answers::decode_one(&value, position).unwrap();
            assert_same(std::slice::from_ref(record), &[read])?;
        }
        prop_assert!(answers::decode_one(&value, given.len() as u64).is_err());
    }

    #[test]
    fn what_is_cut_short_is_an_error_and_what_is_garbled_no_panic(
        given in proptest::collection::vec(any_row(), 1..3),
        told in any_answer(),
        cut in any::<proptest::sample::Index>(),
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut value = rows::encode(given.iter());
        prop_assert!(rows::decode(&value[..cut.index(value.len())]).is_err());
        value.push(0);
        prop_assert!(rows::decode(&value).is_err());
        value.pop();
        let position = at.index(value.len());
        value[position] = byte;
        let _ = (rows::decode(&value), rows::count(&value));
        let mut value = answers::encode(std::iter::once(told.given()));
        prop_assert!(answers::decode(&value[..cut.index(value.len())]).is_err());
        let position = at.index(value.len());
        value[position] = byte;
        let _ = (answers::decode(&value), answers::decode_one(&value, 0));
    }

    #[test]
    fn decisions_come_back_as_they_were(
        numbers in any::<[u64; 2]>(),
        branches in proptest::collection::vec((name(), text()), 0..4),
        read_only in proptest::collection::vec(any::<u16>(), 0..3),
        members in proptest::collection::vec(txn_id(), 0..5),
        at in instant(),
        cut in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let branch = |(participant, identity)| RecordedBranch { participant, identity };
        let record = DecisionRecord {
            epoch: Epoch(numbers[0]),
            physical: PhysicalId(numbers[1]),
            branches: branches.into_iter().map(branch).collect(),
            read_only,
            members,
            decision: if numbers[0] % 2 == 0 { Decision::Commit } else { Decision::Abort },
            at,
        };
        let mut value = decisions::encode(&record);
        prop_assert_eq!(decisions::decode(&value), Ok(record.clone()));
        prop_assert_eq!(decisions::decode(&encode(&record)), Ok(record));
        prop_assert!(decisions::decode(&value[..cut.index(value.len())]).is_err());
        let position = cut.index(value.len());
        value[position] = byte;
        let _ = decisions::decode(&value);
    }

    #[test]
    fn noise_is_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let versioned = [&[1][..], &noise].concat();
        for value in [&noise, &versioned] {
            let _ = (rows::decode(value), rows::count(value), answers::decode(value));
            let _ = decisions::decode(value);
        }
    }

    #[test]
    fn no_two_ids_have_the_same_key(a in txn_id(), b in txn_id()) {
        prop_assert_eq!(a == b, answers::key_of(&a) == answers::key_of(&b));
    }
}

#[test]
fn a_sheaf_shares_texts_up_to_a_limit_and_never_loses_one() {
    let texts: Vec<String> = (0..200).map(|n| format!("text {n}")).collect();
    let mut packer = Packer::new(7, 0);
    for text in texts.iter().chain(&texts) {
        packer.shared(text);
        packer.end_member();
    }
    let bytes = packer.into_bytes();
    let sheaf = Sheaf::open(&bytes).unwrap();
    let read = sheaf.members(|member| Ok(member.shared()?.to_owned())).unwrap();
    assert!(read.iter().eq(texts.iter().chain(&texts)));
}

/// Positions in these lists are stored: new values go to their ends.
#[test]
fn positions_of_values_never_change() {
    let texts = |all: &[&dyn std::fmt::Display]| {
        all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    macro_rules! check {
        ($type:ident, $expected:literal) => {
            let all: Vec<&dyn std::fmt::Display> = $type::ALL.iter().map(|v| v as _).collect();
            assert_eq!(texts(&all), $expected);
            for (at, value) in $type::ALL.iter().enumerate() {
                assert_eq!(*value as usize, at);
            }
        };
    }
    check!(Outcome, "committed aborted rejected in_doubt heuristic");
    check!(LegVote, "yes no read_only timeout");
    check!(ServedBy, "model rules");
    check!(Protocol, "2pc");
    check!(Mode, "off observe enforce");
    check!(
        ReasonCode,
        "fraud_predicted success_unlikely rejected_share_capped observed business_decline \
         technical_failure prepare_timeout cancelled model_fallback decision_unknown \
         heuristic_decision operator_resolved"
    );
    assert_eq!((Admission::Admit as u8, Admission::Reject as u8), (0, 1));
    assert_eq!((Decision::Commit as u8, Decision::Abort as u8), (0, 1));
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

#[test]
fn values_are_written_byte_for_byte_as_ever() {
    let rows = [row(1), row(2)];
    assert_eq!(hex(&rows::encode(rows.iter())), ROWS);
    let answers = [answer(1, "committed"), answer(2, "aborted")];
    assert_eq!(hex(&answers::encode(answers.iter().map(AnswerRecord::given))), ANSWERS_VALUE);
    let decision = DecisionRecord {
        epoch: Epoch(3),
        physical: PhysicalId(200),
        branches: vec![RecordedBranch {
            participant: "core".parse().unwrap(),
            identity: "ledger:1".into(),
        }],
        read_only: vec![1],
        members: vec![id(1), TxnId::new(&"0a".repeat(16)).unwrap()],
        decision: Decision::Commit,
        at: Timestamp::from_micros(5),
    };
    assert_eq!(hex(&decisions::encode(&decision)), DECISION);
}

const ROWS: &str = "\
    010280809296a896a20604035550490652455441494c03494e5204636f7265400574786e2d31001a0102633102\
    026d31a8c3010308403311eb851eb852010000d20903370000003f000050c0000002000001040700023ff80340\
    8f4003023ff0400574786e2d32001a0102633102026d31a8c3010308403311eb851eb852010000d20903370000\
    003f000050c0000002000001040700023ff803408f4003023ff0";
const ANSWERS_VALUE: &str = "\
    010280897a0104636f7265320574786e2d31000000000000000000000000000000000000000000000000000000\
    0000000000000000010000010100000000340574786e2d32000000000000000000000000000000000000000000\
    00000000000000000000000080897a01010000010100000000";
const DECISION: &str = "\
    0101000104636f72652a03c8010101086c65646765723a310101020574786e2d31000a0a0a0a0a0a0a0a0a0a0a\
    0a0a0a0a0a000a";

/// A folder as the first format had it: answers and rows one by one, as JSON.
fn make_old(path: &Path) {
    let keyspaces =
        &["identity", "decisions", "intents", "answers", "outcomes", "seals", "resolutions"];
    let store = Store::open(path, &store::Options::new("decision log", 1, keyspaces)).unwrap();
    let mut batch = Batch::new();
    batch.put(IDENTITY, EPOCH_KEY.to_vec(), 4_u64.to_be_bytes().to_vec());
    let decided = json!({
        "epoch": 4, "physical": 7, "branches": [{"participant": "core", "identity": "ledger:1"}],
        "read_only": [], "members": [id(9)], "decision": "commit",
        "at": Timestamp::from_micros(0),
    });
    batch.put(DECISIONS, execution_key(Epoch(4), PhysicalId(7)), encode(&decided));
    for n in 1..=4 {
        let AnswerRecord { answer, request_hash, at } =
            answer(n, if n == 2 { "in_doubt" } else { "aborted" });
        let record = json!({"id": id(n), "request_hash": request_hash, "body": answer, "at": at});
        batch.put(ANSWERS, id(n).as_str().as_bytes().to_vec(), encode(&record));
        batch.append(OUTCOMES, encode(&row(n)));
    }
    store.submit(batch, Urgency::Urgent).unwrap().wait().unwrap();
    store.close().unwrap();
}

#[test]
fn a_folder_of_format_1_is_read_and_carried_on() {
    let dir = tempfile::tempdir().unwrap();
    make_old(dir.path());
    let options = Options {
        answer_retention: Duration::from_secs(100),
        lazy_flush_after: Duration::ZERO,
        ..Options::default()
    };
    let (log, recovered) = DecisionLog::open(dir.path(), options.clone()).unwrap();
    assert_eq!(log.epoch(), Epoch(5));
    assert_eq!(recovered.decisions[0].members, [id(9)]);
    let read = log.outcome_rows(2, 2).unwrap();
    assert_eq!(format!("{read:?}"), format!("{:?}", [(2, row(2)), (3, row(3))]));
    assert_eq!(log.answer(&id(2)).unwrap(), Some(answer(2, "in_doubt")));
    run(log.record_outcomes(None, &[(answer(150, "committed").given(), &row(5))], None)).unwrap();
    run(log.update_answer(answer(4, "heuristic").given())).unwrap();
    drop(log);
    let (log, _) = DecisionLog::open(dir.path(), options).unwrap();
    let read: Vec<_> = log.outcome_rows(0, 9).unwrap().into_iter().map(|row| row.0).collect();
    assert_eq!(read, [1, 2, 3, 4, 5]);
    assert_eq!(log.answer(&id(4)).unwrap(), Some(answer(4, "heuristic")));
    assert_eq!(log.answer(&id(150)).unwrap(), Some(answer(150, "committed")));
    // Of those one by one, 1 and 3 go for their age and 4 because it was replaced.
    assert_eq!(run(log.prune_answers(Timestamp::from_micros(149_000_000))).unwrap(), 2);
    assert_eq!(log.store().prefix(ANSWERS, b"").count(), 1);
    assert_eq!(log.answer(&id(1)).unwrap(), None);
    for (n, outcome) in [(2, "in_doubt"), (4, "heuristic"), (150, "committed")] {
        assert_eq!(log.answer(&id(n)).unwrap(), Some(answer(n, outcome)), "{n}");
    }
    drop(log);
    // Who knows only the first format would not find the new answers.
    let old = store::Options::new("decision log", 1, &KEYSPACES[..7]);
    let refused = Store::open(dir.path(), &old).map(drop).unwrap_err().to_string();
    assert!(refused.contains("has format 2, this program knows up to 1"), "{refused}");
}
