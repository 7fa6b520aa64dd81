//! The demo's clients: simulated payments as requests to the public interface.
//!
//! The world says what a payment meets; real ledgers then do it. A payment that the world declines
//! draws on the customer's empty account and is declined for lack of funds; one that breaks in the
//! world meets a participant that does not answer in time.

use presume::simulation::{Generated, Generator};
use presume::txn::{FailureClass, LegVote};
use serde_json::{Value, json};

use super::slowed::PARAMETER;

/// What every customer's account opens with, in minor units.
pub const OPENING_MINOR: i64 = 1_000_000_000_000;
/// Longer than any prepare timeout: the participant does not answer.
const NEVER_MS: f64 = 90_000.0;
/// Where a third participant books, within its own ledger.
pub const BOOKS: [&str; 2] = ["clearing", "booked"];

/// The customer's account with money.
pub fn account(customer: &str) -> String {
    format!("customer/{customer}")
}

/// The customer's account without.
pub fn empty_account(customer: &str) -> String {
    format!("customer/{customer}/empty")
}

/// The accounts that the demo's customers and counterparties need.
pub fn accounts(generator: &Generator) -> (Vec<String>, Vec<String>) {
    let customers = generator.customers().iter().map(|c| c.id.to_string()).collect();
    let payees = generator.counterparties().iter().map(|c| format!("payee/{}", c.id)).collect();
    (customers, payees)
}

/// The request of one generated payment.
pub fn request(generated: &Generated) -> Value {
    let (row, payment) = (&generated.row, &generated.row.payment);
    let amount = payment.amount.minor;
    let declined = row.failure_class == Some(FailureClass::Business);
    let customer = payment.customer.id.as_str();
    let payer = if declined { empty_account(customer) } else { account(customer) };
    let payee = match &payment.counterparty {
        Some(counterparty) => format!("payee/{counterparty}"),
        None => "payee/unnamed".to_owned(),
    };
    let operations: Vec<_> = row
        .legs
        .iter()
        .enumerate()
        .map(|(index, leg)| {
            // A declining participant takes its time as well; only a missing vote takes for ever.
            let broken = row.failure_class == Some(FailureClass::Technical);
            let ms = match leg.vote {
                LegVote::Timeout => leg.late_ms.unwrap_or(NEVER_MS),
                LegVote::No if broken => NEVER_MS,
                _ => leg.prepare_ms,
            };
            let (operation, params) = match index {
                0 => ("debit", json!({ "account": payer, "amount": amount.max(1) })),
                1 => ("credit", json!({ "account": payee, "amount": amount.max(1) })),
                _ => (
                    "transfer",
                    json!({ "from": BOOKS[0], "to": BOOKS[1], "amount": amount.max(1) }),
                ),
            };
            let mut params = params;
            params[PARAMETER] = json!(ms);
            json!({ "participant": leg.participant, "operation": operation, "params": params })
        })
        .collect();
    let mut body = json!({
        "id": row.txn_id,
        "timestamp": row.timestamp,
        "kind": payment.kind,
        "customer": payment.customer,
        "amount": payment.amount,
        "cross_border": payment.cross_border,
        "requires_consistency": payment.requires_consistency,
        "attempt": payment.attempt,
        "operations": operations,
    });
    if let Some(counterparty) = &payment.counterparty {
        body["counterparty"] = json!(counterparty);
    }
    if let Some(location) = payment.location {
        body["location"] = json!(location);
    }
    if let Some(load) = payment.system_load_ratio {
        body["system_load_ratio"] = json!(load);
    }
    body
}
