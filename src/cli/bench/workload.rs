//! Which accounts a transfer is between, and whether it has the money.

use presume::coordinator::{Submission, Wait};
use presume::txn::{
    Currency, Customer, CustomerId, CustomerType, Kind, Money, Operation, OperationName, Params,
    ParticipantName, Payment, ProtocolRequest, Transaction, TxnId,
};
use serde::Serialize;

/// At each participant.
pub(super) const ACCOUNTS: u64 = 100_000;
/// Accounts without money, from which a transfer is declined.
pub(super) const EMPTY_ACCOUNTS: u64 = 1_000;
/// On every other account.
pub(super) const OPENING_MINOR: i64 = 1_000_000_000;
/// Who is debited, and who is credited or only asked.
pub(super) const PARTICIPANTS: [&str; 5] = ["left", "right", "third", "fourth", "fifth"];
/// What each credited account gets; the debited one pays for all.
const CREDIT_MINOR: i64 = 100;
/// The stream of numbers that says who is declined; those of accounts are their sides.
const DECLINES: u64 = 7;

/// How accounts are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
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
    /// What each participant does.
    actions: Vec<Action>,
}

/// What is done at a participant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Takes money, if it is there.
    Debit,
    Credit,
    /// Demands that money is there, and changes nothing.
    Read,
}

/// A transfer at one participant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leg {
    pub(super) action: Action,
    pub(super) account: String,
    pub(super) amount_minor: i64,
}

/// One transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Transfer {
    /// By participant.
    pub(super) legs: Vec<Leg>,
    /// Whether the debited account has nothing.
    pub(super) declined: bool,
}

impl Workload {
    /// Between `participants`, at least two, of which the last `read_only`, not all, are only read.
    pub(super) fn new(
        accounts: Accounts,
        declines_percent: f64,
        participants: usize,
        read_only: usize,
    ) -> Self {
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
        let action = |participant: usize| match participant {
            0 => Action::Debit,
            n if n + read_only < participants => Action::Credit,
            _ => Action::Read,
        };
        Self { cumulated, declines_percent, actions: (0..participants).map(action).collect() }
    }

    pub(super) fn transfer(&self, n: u64) -> Transfer {
        let declined = uniform(n, DECLINES) * 100.0 < self.declines_percent;
        let credited = self.actions.iter().filter(|action| **action == Action::Credit).count();
        let leg = |(side, &action): (usize, &Action)| Leg {
            action,
            account: match action {
                Action::Debit if declined => format!("e{}", n % EMPTY_ACCOUNTS),
                _ => format!("a{}", self.account(n, side as u64)),
            },
            amount_minor: match action {
                Action::Debit => CREDIT_MINOR * credited.max(1) as i64,
                Action::Credit => CREDIT_MINOR,
                Action::Read => 1,
            },
        };
        Transfer { legs: self.actions.iter().enumerate().map(leg).collect(), declined }
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

/// The n-th number of a stream below 8, from 0 to less than 1, by `SplitMix64`.
pub(super) fn uniform(n: u64, stream: u64) -> f64 {
    let mut z = (n * 8 + stream).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

impl Leg {
    /// The same as an operation; embedded ledgers know reading by another name and parameter.
    pub(super) fn operation(&self, participant: usize) -> anyhow::Result<Operation> {
        let (name, amount) = match self.action {
            Action::Debit => ("debit", "amount"),
            Action::Credit => ("credit", "amount"),
            Action::Read => ("assert_balance", "at_least"),
        };
        Ok(Operation {
            participant: ParticipantName::new(PARTICIPANTS[participant])?,
            operation: OperationName::new(name)?,
            params: Params::from([
                ("account".to_owned(), self.account.as_str().into()),
                (amount.to_owned(), self.amount_minor.into()),
            ]),
        })
    }
}

/// The same as a submission.
pub(super) fn submission(n: u64, transfer: &Transfer, wait: Wait) -> anyhow::Result<Submission> {
    let debit = &transfer.legs[0];
    let customer = Customer {
        id: CustomerId::new(&format!("c{}", debit.account))?,
        customer_type: CustomerType::Retail,
        since: None,
    };
    let amount = Money { minor: debit.amount_minor, currency: Currency::INR };
    let operations = transfer.legs.iter().enumerate().map(|(i, leg)| leg.operation(i));
    Ok(Submission {
        transaction: Transaction {
            id: TxnId::new(&format!("b{n}"))?,
            payment: Payment::new(Kind::Upi, customer, amount),
            protocol: ProtocolRequest::Auto,
            operations: operations.collect::<anyhow::Result<_>>()?,
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
        let zipf = Workload::new(Accounts::Zipf, 5.0, 2, 0);
        let all: Vec<_> = (0..20_000).map(|n| zipf.transfer(n)).collect();
        let declined = all.iter().filter(|transfer| transfer.declined).count();
        assert!((900..1_100).contains(&declined), "{declined}");
        let hottest = all.iter().filter(|transfer| transfer.legs[1].account == "a31").count();
        assert!((1_400..1_900).contains(&hottest), "{hottest}: about 8 percent");
        let uniform = Workload::new(Accounts::Uniform, 0.0, 2, 0);
        let seen: std::collections::HashSet<_> =
            (0..20_000).map(|n| uniform.transfer(n).legs[0].account.clone()).collect();
        assert!(seen.len() > 17_000, "{}", seen.len());
    }

    #[test]
    fn what_is_debited_is_what_is_credited_and_who_reads_changes_nothing() {
        use Action::{Credit, Debit, Read};
        let check = |participants, read_only, expected: &[(Action, i64)]| {
            let workload = Workload::new(Accounts::Uniform, 0.0, participants, read_only);
            let legs = workload.transfer(7).legs;
            let got: Vec<_> = legs.iter().map(|leg| (leg.action, leg.amount_minor)).collect();
            assert_eq!(got, expected);
            let submitted = submission(7, &workload.transfer(7), Wait::Decision).unwrap();
            assert_eq!(submitted.transaction.operations.len(), participants);
        };
        check(2, 0, &[(Debit, 100), (Credit, 100)]);
        check(2, 1, &[(Debit, 100), (Read, 1)]);
        check(3, 1, &[(Debit, 100), (Credit, 100), (Read, 1)]);
        check(5, 2, &[(Debit, 200), (Credit, 100), (Credit, 100), (Read, 1), (Read, 1)]);
    }

    #[test]
    fn only_the_debited_account_decides_whether_there_is_money() {
        let workload = Workload::new(Accounts::Uniform, 100.0, 3, 1);
        for transfer in (0..100).map(|n| workload.transfer(n)) {
            let empty = transfer.legs.iter().map(|leg| leg.account.starts_with('e'));
            assert_eq!(empty.collect::<Vec<_>>(), [true, false, false]);
            assert!(transfer.declined);
        }
    }
}
