//! Which accounts a transfer is between, and whether it has the money.

use presume::coordinator::{Submission, Wait};
use presume::txn::{
    Currency, Customer, CustomerId, CustomerType, Kind, Money, Operation, OperationName, Params,
    ParticipantName, Payment, ProtocolRequest, Transaction, TxnId,
};

/// At each participant.
pub(super) const ACCOUNTS: u64 = 100_000;
/// Accounts without money, from which a transfer is declined.
pub(super) const EMPTY_ACCOUNTS: u64 = 1_000;
/// Who is debited, who is credited.
pub(super) const PARTICIPANTS: [&str; 2] = ["left", "right"];

/// How accounts are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Accounts {
    /// Every one as often as any other.
    Uniform,
    /// The n-th as often as n to the power of -0.99.
    Zipf,
}

/// What transfers are like; the n-th is the same in every run.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    /// The sums of the shares of the accounts, if they differ.
    cumulated: Vec<f64>,
    /// Of a hundred transfers, so many are declined.
    declines_percent: f64,
}

/// One transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Transfer {
    pub(super) from: String,
    pub(super) to: String,
    /// Whether `from` has nothing.
    pub(super) declined: bool,
}

impl Workload {
    pub(super) fn new(accounts: Accounts, declines_percent: f64) -> Self {
        let mut cumulated = Vec::new();
        if accounts == Accounts::Zipf {
            let mut sum = 0.0;
            for n in 1..=ACCOUNTS {
                sum += (n as f64).powf(-0.99);
                cumulated.push(sum);
            }
            for share in &mut cumulated {
                *share /= sum;
            }
        }
        Self { cumulated, declines_percent }
    }

    pub(super) fn transfer(&self, n: u64) -> Transfer {
        let declined = uniform(n, 2) * 100.0 < self.declines_percent;
        let from = if declined {
            format!("e{}", n % EMPTY_ACCOUNTS)
        } else {
            format!("a{}", self.account(n, 0))
        };
        Transfer { from, to: format!("a{}", self.account(n, 1)), declined }
    }

    fn account(&self, n: u64, side: u64) -> u64 {
        let drawn = uniform(n, side);
        if self.cumulated.is_empty() {
            return ((drawn * ACCOUNTS as f64) as u64).min(ACCOUNTS - 1);
        }
        let rank = self.cumulated.partition_point(|sum| *sum < drawn) as u64;
        // Ranks are spread over the accounts, on each side otherwise.
        (rank.min(ACCOUNTS - 1) * 7_919 + side * 31) % ACCOUNTS
    }
}

/// The n-th number of a stream, from 0 to 1, by `SplitMix64`.
fn uniform(n: u64, stream: u64) -> f64 {
    let mut z = (n * 3 + stream).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The same as a submission.
pub(super) fn submission(n: u64, transfer: &Transfer, wait: Wait) -> anyhow::Result<Submission> {
    let operation = |participant: &str, name: &str, account: &str| -> anyhow::Result<Operation> {
        Ok(Operation {
            participant: ParticipantName::new(participant)?,
            operation: OperationName::new(name)?,
            params: Params::from([
                ("account".to_owned(), account.into()),
                ("amount".to_owned(), 100.into()),
            ]),
        })
    };
    let customer = Customer {
        id: CustomerId::new(&format!("c{}", transfer.from))?,
        customer_type: CustomerType::Retail,
        since: None,
    };
    let amount = Money { minor: 100, currency: Currency::INR };
    Ok(Submission {
        transaction: Transaction {
            id: TxnId::new(&format!("b{n}"))?,
            payment: Payment::new(Kind::Upi, customer, amount),
            protocol: ProtocolRequest::Auto,
            operations: vec![
                operation(PARTICIPANTS[0], "debit", &transfer.from)?,
                operation(PARTICIPANTS[1], "credit", &transfer.to)?,
            ],
        },
        request_hash: String::new(),
        event_time: None,
        wait,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_as_asked_for() {
        let zipf = Workload::new(Accounts::Zipf, 5.0);
        let all: Vec<_> = (0..20_000).map(|n| zipf.transfer(n)).collect();
        let declined = all.iter().filter(|transfer| transfer.declined).count();
        assert!((900..1_100).contains(&declined), "{declined}");
        let hottest = all.iter().filter(|transfer| transfer.to == "a31").count();
        assert!((1_400..1_900).contains(&hottest), "{hottest}: about 8 percent");
        let uniform = Workload::new(Accounts::Uniform, 0.0);
        let seen: std::collections::HashSet<_> =
            (0..20_000).map(|n| uniform.transfer(n).from).collect();
        assert!(seen.len() > 17_000, "{}", seen.len());
    }
}
