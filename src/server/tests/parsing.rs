use proptest::prelude::*;
use serde_json::{Value, json};

use crate::coordinator::{Submission, Wait};
use crate::server::json::{DEPTH_MAX, Json};
use crate::server::request::{RequestError, Rules, parse};
use crate::txn::{ParticipantName, TxnId};

const RULES: Rules = Rules { operations_count_max: 16, client_time: false };

pub fn transfer() -> Value {
    json!({
        "id": "t1",
        "kind": "UPI",
        "customer": {"id": "c17", "type": "RETAIL", "since": "2021-04-01"},
        "counterparty": "m9",
        "amount": {"minor": 12500, "currency": "INR"},
        "cross_border": false,
        "requires_consistency": true,
        "location": {"lat": 19.07, "lon": 72.88},
        "protocol": "auto",
        "operations": [
            {"participant": "core", "operation": "debit",
             "params": {"account": "a1", "amount": 12500}},
            {"participant": "rail-a", "operation": "credit",
             "params": {"account": "b2", "amount": 12500}},
        ],
    })
}

fn read(body: &Value) -> Result<Submission, RequestError> {
    parse(body.to_string().as_bytes(), None, RULES)
}

/// The transfer with one place changed; `path` is a JSON pointer, `None` removes.
fn changed(path: &str, value: Option<Value>) -> Value {
    let mut body = transfer();
    let (parent, key) = path.rsplit_once('/').unwrap();
    match (body.pointer_mut(parent).unwrap(), value) {
        (Value::Object(fields), Some(value)) => {
            fields.insert(key.to_owned(), value);
        }
        (Value::Object(fields), None) => {
            fields.remove(key);
        }
        (Value::Array(items), Some(value)) => items[key.parse::<usize>().unwrap()] = value,
        _ => panic!("{path} leads nowhere"),
    }
    body
}

fn refused(path: &str, value: impl Into<Option<Value>>, field: &str, detail: &str) {
    let body = changed(path, value.into());
    match read(&body) {
        Err(RequestError::Invalid(error)) => {
            assert_eq!(error.field, field, "{error}");
            assert!(error.detail.contains(detail), "{error} should say {detail:?}");
        }
        other => panic!("{body} gave {other:?}"),
    }
}

fn malformed(body: &[u8], reason: &str) -> (usize, usize) {
    match parse(body, None, RULES) {
        Err(RequestError::Malformed(error)) => {
            assert!(error.reason.contains(reason), "{error} should say {reason:?}");
            (error.line, error.column)
        }
        other => panic!("{:?} gave {other:?}", String::from_utf8_lossy(body)),
    }
}

#[test]
fn the_documented_request_is_read_in_full() {
    let submission = read(&transfer()).unwrap();
    let transaction = submission.transaction;
    assert_eq!(transaction.id.as_str(), "t1");
    assert_eq!(transaction.payment.amount.minor, 12500);
    assert_eq!(transaction.payment.attempt, 1);
    let names: Vec<_> =
        transaction.payment.participants.iter().map(ParticipantName::as_str).collect();
    assert_eq!(names, ["core", "rail-a"]);
    assert_eq!(submission.wait, Wait::Decision);
    assert_eq!(submission.event_time, None);
    assert_eq!(submission.request_hash.len(), 64);
}

#[test]
fn a_participant_named_twice_is_one_branch() {
    let mut body = transfer();
    let again = body["operations"][0].clone();
    body["operations"].as_array_mut().unwrap().push(again);
    assert_eq!(read(&body).unwrap().transaction.payment.participants.len(), 2);
}

#[test]
fn wrong_fields_are_refused_by_name() {
    refused("/kind", json!("CASH"), "kind", "CASH");
    refused("/kind", json!(3), "kind", "an integer");
    refused("/kind", None, "kind", "missing");
    refused("/customer", json!([]), "customer", "an array");
    refused("/customer/type", json!("VIP"), "customer.type", "RETAIL");
    refused("/customer/id", json!(""), "customer.id", "empty");
    refused("/customer/id", json!("x".repeat(129)), "customer.id", "129");
    refused("/customer/id", json!("a\u{0}b"), "customer.id", "control");
    refused("/customer/since", json!("2021-13-01"), "customer.since", "RFC 3339");
    refused("/customer/vip", json!(true), "customer.vip", "known are id, type, since");
    refused("/amount/minor", json!(-1), "amount.minor", "-1");
    refused("/amount/minor", json!(12.5), "amount.minor", "12.5");
    refused("/amount/minor", json!(12500.0), "amount.minor", "whole");
    refused("/amount/minor", json!(u64::MAX), "amount.minor", "whole");
    refused("/amount/minor", json!("12500"), "amount.minor", "a text");
    refused("/amount/currency", json!("inr"), "amount.currency", "capital");
    refused("/location/lat", json!(90.1), "location.lat", "90.1");
    refused("/location/lon", None, "location.lon", "missing");
    refused("/attempt", json!(0), "attempt", "between 1");
    refused("/wait", json!("forever"), "wait", "decision applied");
    refused("/protocol", json!("3pc"), "protocol", "auto 2pc");
    refused("/cross_border", json!("no"), "cross_border", "true or false");
    refused("/operations", json!([]), "operations", "0 items");
    refused("/operations", json!({}), "operations", "an array");
    refused("/operations/1", json!(7), "operations[1]", "an object");
    refused("/operations/0/params", json!([1]), "operations[0].params", "an array");
    refused("/operations/0/params/amount", json!({}), "operations[0].params.amount", "an object");
    refused("/operations/0/params/amount", json!(1e17), "operations[0].params.amount", "exactly");
    refused("/operations/0/params/memo", json!("a\u{0}"), "operations[0].params.memo", "NUL");
    refused("/operations/0/route", json!("x"), "operations[0].route", "not a known field");
    refused("/extra", json!(1), "extra", "not a known field");
}

#[test]
fn counts_and_lengths_have_limits() {
    let operation = transfer()["operations"][0].clone();
    refused("/operations", json!(vec![operation; 17]), "operations", "17 items");
    let long = json!("x".repeat(1025));
    refused("/operations/0/params/memo", long, "operations[0].params.memo", "1025");
    let many: serde_json::Map<_, _> = (0..33).map(|n| (format!("p{n}"), json!(n))).collect();
    refused("/operations/0/params", json!(many), "operations[0].params", "33");
}

#[test]
fn time_and_load_are_the_servers_to_say_unless_allowed() {
    refused("/timestamp", json!("2026-01-31T09:30:00Z"), "timestamp", "server.client_time");
    refused("/system_load_ratio", json!(0.5), "system_load_ratio", "server.client_time");
    let rules = Rules { client_time: true, ..RULES };
    let body = changed("/timestamp", Some(json!("2026-01-31T09:30:00Z"))).to_string();
    let submission = parse(body.as_bytes(), None, rules).unwrap();
    assert_eq!(submission.event_time.unwrap().to_string(), "2026-01-31T09:30:00Z");
}

#[test]
fn id_and_idempotency_key_are_the_same_thing() {
    let key = |text: &str| Some(TxnId::new(text).unwrap());
    let id = |body: &Value, key| {
        parse(body.to_string().as_bytes(), key, RULES).map(|s| s.transaction.id.to_string())
    };
    let unnamed = changed("/id", None);
    assert_eq!(id(&transfer(), None).unwrap(), "t1");
    assert_eq!(id(&transfer(), key("t1")).unwrap(), "t1");
    assert_eq!(id(&unnamed, key("k9")).unwrap(), "k9");
    assert_ne!(id(&unnamed, None).unwrap(), id(&unnamed, None).unwrap());
    assert!(id(&transfer(), key("other")).unwrap_err().to_string().contains("differs"));
}

#[test]
fn the_hash_is_of_the_meaning() {
    let hash = |body: &Value| read(body).unwrap().request_hash;
    let plain = hash(&transfer());
    let reordered = r#"{ "operations":[{"params":{"amount":12500,"account":"a1"},
        "operation":"debit","participant":"core"},{"operation":"credit","participant":"rail-a",
        "params":{"account":"b2","amount":12500}}],  "location":{"lon":72.88,"lat":1907e-2},
        "amount":{"currency":"INR","minor":12500},"counterparty":"m9","kind":"U\u0050I",
        "customer":{"since":"2021-04-01T00:00:00Z","type":"RETAIL","id":"c17"} }"#;
    let same = parse(reordered.as_bytes(), None, RULES).unwrap().request_hash;
    assert_eq!(plain, same, "key order, spaces, escapes and written-out defaults do not matter");
    for path in ["/id", "/protocol", "/cross_border", "/requires_consistency"] {
        assert_eq!(
            plain,
            hash(&changed(path, None)),
            "{path} is not part of it, or at its default"
        );
    }
    assert_eq!(plain, hash(&changed("/wait", Some(json!("applied")))));
    for (path, value) in [
        ("/amount/minor", json!(12501)),
        ("/kind", json!("IMPS")),
        ("/attempt", json!(2)),
        ("/counterparty", json!(null)),
        ("/operations/0/params/account", json!("a2")),
        ("/operations/1/params/amount", json!("12500")),
        ("/cross_border", json!(true)),
    ] {
        assert_ne!(plain, hash(&changed(path, Some(value))), "{path}");
    }
}

#[test]
fn malformed_json_is_located() {
    assert_eq!(malformed(b"", "EOF"), (1, 0));
    assert_eq!(malformed(b"{\n  \"kind\": UPI}", "expected value"), (2, 11));
    malformed(b"{\"kind\": \"UPI\"", "EOF");
    malformed(b"{} {}", "trailing");
    malformed(b"{\"a\": 1, \"a\": 2}", "given twice");
    malformed(br#"{"operations": [{"params": {"amount": 1, "amount": 2}}]}"#, "given twice");
    malformed(b"{\"amount\": 1e999}", "out of range");
    malformed(b"{\"amount\": NaN}", "expected value");
    malformed(b"{\"amount\": -Infinity}", "invalid number");
    malformed(b"{\"kind\": \"\xff\xfe\"}", "unicode");
    malformed(b"\xef\xbb\xbf{}", "expected value");
    malformed(b"{\"kind\": \"\\ud800\"}", "escape");
    malformed(b"{\"kind\": \"a\0b\"}", "control character");
    malformed(b"\0\0\0", "expected value");
    malformed("[".repeat(60_000).as_bytes(), "deeper");
    malformed(r#"{"a":"#.repeat(10_000).as_bytes(), "deeper");
}

#[test]
fn nesting_is_read_up_to_its_limit() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(Json::parse(nested(DEPTH_MAX).as_bytes()).is_ok());
    assert!(Json::parse(nested(DEPTH_MAX + 1).as_bytes()).is_err());
}

#[test]
fn anything_but_an_object_is_refused() {
    for body in ["null", "[]", "3", "\"text\"", "true"] {
        let error = parse(body.as_bytes(), None, RULES).unwrap_err().to_string();
        assert!(error.contains("body") && error.contains("an object"), "{error}");
    }
}

#[test]
fn messages_stay_short_whatever_was_sent() {
    let body = json!({"x".repeat(50_000): 1}).to_string();
    assert!(parse(body.as_bytes(), None, RULES).unwrap_err().to_string().len() < 2000);
    let kind = changed("/kind", Some(json!("y".repeat(50_000))));
    assert!(read(&kind).unwrap_err().to_string().len() < 2000);
    let wait = changed("/wait", Some(json!("z".repeat(50_000))));
    assert!(read(&wait).unwrap_err().to_string().len() < 2000);
    let twice = format!("{{\"{0}\":1,\"{0}\":2}}", "k".repeat(20_000));
    assert!(parse(twice.as_bytes(), None, RULES).unwrap_err().to_string().len() < 2000);
}

/// Pieces from which hostile bodies are made.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"id\"",
        "\"kind\"",
        "\"UPI\"",
        "\"operations\"",
        "\"amount\"",
        "\"minor\"",
        "\"params\"",
        "1e999",
        "-0",
        "18446744073709551616",
        "NaN",
        "null",
        "true",
        "\"\\ud800\"",
        "\"\\u0000\"",
        " ",
        "\n",
        "12500",
    ]);
    prop_oneof![
        4 => words.prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ]
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(body in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&body, None, RULES);
    }

    #[test]
    fn no_tokens_make_the_parser_panic(parts in prop::collection::vec(fragment(), 0..60)) {
        let _ = parse(&parts.concat(), None, RULES);
    }

    #[test]
    fn a_damaged_request_is_read_or_refused(at in 0usize..600, byte in any::<u8>(), cut: bool) {
        let mut body = transfer().to_string().into_bytes();
        let at = at % body.len();
        if cut { body.truncate(at) } else { body[at] = byte }
        if let Ok(submission) = parse(&body, None, RULES) {
            prop_assert!(submission.transaction.payment.amount.minor >= 0);
            prop_assert!(!submission.transaction.operations.is_empty());
        }
    }

    #[test]
    fn strict_json_agrees_with_serde_json(text in "\\PC{0,12}", number in any::<i64>(), float in -1e15..1e15f64) {
        let value = json!({"text": text, "list": [number, float, null, true]});
        let strict = Json::parse(value.to_string().as_bytes()).unwrap();
        let expected = Json::Object([
            ("text".to_owned(), Json::Text(text)),
            ("list".to_owned(), Json::List(vec![
                Json::Integer(number), Json::Float(float), Json::Null, Json::Bool(true),
            ])),
        ].into());
        prop_assert_eq!(strict, expected);
    }
}
