//! Which accounts a transfer is between, and whether it has the money.

use std::sync::LazyLock;

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
/// The same as names, of which every transfer has copies.
static NAMES: LazyLock<[ParticipantName; PARTICIPANTS.len()]> =
    LazyLock::new(|| PARTICIPANTS.map(|name| name.parse().expect("a plain name")));
/// Of operations, by [`Action`].
static OPERATIONS: LazyLock<[OperationName; 3]> = LazyLock::new(|| {
    ["debit", "credit", "assert_balance"].map(|name| name.parse().expect("a plain name"))
});
/// What each credited account gets; the debited one pays for all.
const CREDIT_MINOR: i64 = 100;
/// The stream of numbers that says who is declined; those of accounts are their sides.
const DECLINES: u64 = 7;
/// Those from which scores of foreseen votes are made.
const SCORES: [u64; 2] = [8, 9];

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
    /// Whether every other decline is that of the last credited side.
    both_sides: bool,
    /// What is said of each transfer's votes beforehand.
    foresight: Option<Foresight>,
}

/// Predictions of a stated quality: each transfer gets a score from a normal distribution, which
/// stands further up for those that will be declined, and the probability that follows from it.
#[derive(Debug, Clone, Copy)]
struct Foresight {
    /// By how many standard deviations; infinite where nothing is left to chance.
    separation: f64,
    auc: f64,
    /// Of all transfers, how many are declined.
    share: f64,
}

impl Foresight {
    /// AUC = Φ(separation / √2), for two normal distributions of the same width.
    fn new(auc: f64, share: f64) -> Self {
        let (mut low, mut high) = (0.0, 12.0);
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            let below = normal_share(middle / std::f64::consts::SQRT_2) < auc;
            (low, high) = if below { (middle, high) } else { (low, middle) };
        }
        Self { separation: if auc >= 1.0 { f64::INFINITY } else { low }, auc, share }
    }

    /// The probability that the n-th transfer is declined, if it is or is not.
    fn probability(&self, n: u64, declined: bool) -> f64 {
        if self.separation.is_infinite() {
            return f64::from(u8::from(declined));
        }
        let (u, v) = (uniform(n, SCORES[0]).max(f64::MIN_POSITIVE), uniform(n, SCORES[1]));
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        let score = normal + if declined { self.separation } else { 0.0 };
        // Bayes, with the two densities' ratio.
        let odds = (self.separation * (score - self.separation / 2.0)).exp() * self.share
            / (1.0 - self.share);
        odds / (1.0 + odds)
    }
}

/// Φ: how much of a normal distribution stands below `x`, by Simpson's rule.
fn normal_share(x: f64) -> f64 {
    let (from, steps) = (-9.0, 600);
    let width = (x - from) / f64::from(steps);
    let density = |step: i32| {
        let at = from + width * f64::from(step);
        (-at * at / 2.0).exp() / std::f64::consts::TAU.sqrt()
    };
    let weighted = |step: i32| density(step) * if step % 2 == 0 { 2.0 } else { 4.0 };
    (density(0) + density(steps) + (1..steps).map(weighted).sum::<f64>()) * width / 3.0
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
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Transfer {
    /// By participant.
    pub(super) legs: Vec<Leg>,
    /// Whether the debited account has nothing, or a credited one does not exist.
    pub(super) declined: bool,
    /// What was said of it beforehand: the probability that it is declined.
    pub(super) foreseen: Option<f64>,
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
        let actions = (0..participants).map(action).collect();
        Self { cumulated, declines_percent, actions, both_sides: false, foresight: None }
    }

    /// Every other decline is that of the last credited side.
    pub(super) fn with_both_sides(self, both_sides: bool) -> Self {
        Self { both_sides, ..self }
    }

    /// Something is said of each transfer beforehand, of this quality.
    pub(super) fn with_foresight(self, auc: Option<f64>) -> Self {
        let foresight = auc.map(|auc| Foresight::new(auc, self.declines_percent / 100.0));
        Self { foresight, ..self }
    }

    /// The quality of what is said beforehand.
    pub(super) fn auc(&self) -> Option<f64> {
        self.foresight.map(|foresight| foresight.auc)
    }

    pub(super) fn transfer(&self, n: u64) -> Transfer {
        let declined = uniform(n, DECLINES) * 100.0 < self.declines_percent;
        let credited = self.actions.iter().filter(|action| **action == Action::Credit).count();
        let unknown = declined && self.both_sides && n.is_multiple_of(2);
        let leg = |(side, &action): (usize, &Action)| Leg {
            action,
            account: match action {
                Action::Debit if declined && !unknown => format!("e{}", n % EMPTY_ACCOUNTS),
                Action::Credit if unknown && side == credited => "nobody".to_owned(),
                _ => format!("a{}", self.account(n, side as u64)),
            },
            amount_minor: match action {
                Action::Debit => CREDIT_MINOR * credited.max(1) as i64,
                Action::Credit => CREDIT_MINOR,
                Action::Read => 1,
            },
        };
        let foreseen = self.foresight.map(|foresight| foresight.probability(n, declined));
        Transfer { legs: self.actions.iter().enumerate().map(leg).collect(), declined, foreseen }
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

/// The n-th number of a stream below 16, from 0 to less than 1, by `SplitMix64`.
pub(super) fn uniform(n: u64, stream: u64) -> f64 {
    let mut z = (n * 16 + stream).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

impl Leg {
    /// The same as an operation; embedded ledgers know reading by another name and parameter.
    pub(super) fn operation(&self, participant: usize) -> Operation {
        let amount = if self.action == Action::Read { "at_least" } else { "amount" };
        Operation {
            participant: NAMES[participant].clone(),
            operation: OPERATIONS[self.action as usize].clone(),
            params: Params::from([
                ("account", self.account.as_str().into()),
                (amount, self.amount_minor.into()),
            ]),
        }
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
    let mut payment = Payment::new(Kind::Upi, customer, amount);
    // The model of a run with foresight reads this feature alone.
    payment.system_load_ratio = transfer.foreseen;
    let operations = transfer.legs.iter().enumerate().map(|(i, leg)| leg.operation(i));
    Ok(Submission {
        transaction: Transaction {
            id: TxnId::new(&format!("b{n}"))?,
            payment,
            protocol: ProtocolRequest::Auto,
            operations: operations.collect(),
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

    #[test]
    fn what_is_foreseen_is_as_good_as_stated_and_calibrated() {
        for auc in [0.6, 0.75, 0.9] {
            let workload = Workload::new(Accounts::Uniform, 20.0, 2, 0).with_foresight(Some(auc));
            let all: Vec<_> = (0..20_000).map(|n| workload.transfer(n)).collect();
            let mut scored: Vec<_> =
                all.iter().map(|t| (t.foreseen.unwrap_or(f64::NAN), t.declined)).collect();
            let mean = scored.iter().map(|(p, _)| p).sum::<f64>() / scored.len() as f64;
            assert!((mean - 0.2).abs() < 0.01, "{mean}");
            scored.sort_by(|a, b| a.0.total_cmp(&b.0));
            let positions = scored.iter().zip(1_u64..).filter(|((_, yes), _)| *yes);
            let (mut sum, mut count) = (0, 0);
            for (_, rank) in positions {
                (sum, count) = (sum + rank, count + 1);
            }
            let pairs = count * (scored.len() as u64 - count);
            let found = (sum - count * (count + 1) / 2) as f64 / pairs as f64;
            assert!((found - auc).abs() < 0.01, "{found} instead of {auc}");
        }
        let known = Workload::new(Accounts::Uniform, 20.0, 2, 0).with_foresight(Some(1.0));
        let certain = |t: Transfer| t.foreseen == Some(f64::from(u8::from(t.declined)));
        assert!((0..1_000).map(|n| known.transfer(n)).all(certain));
    }

    #[test]
    fn both_sides_decline_if_asked_for() {
        let workload = Workload::new(Accounts::Uniform, 20.0, 3, 1).with_both_sides(true);
        let all: Vec<_> = (0..20_000).map(|n| workload.transfer(n)).collect();
        let short = all.iter().filter(|t| t.legs[0].account.starts_with('e')).count();
        let unknown = all.iter().filter(|t| t.legs[1].account == "nobody").count();
        assert!((1_800..2_200).contains(&short) && (1_800..2_200).contains(&unknown));
        assert_eq!(all.iter().filter(|t| t.declined).count(), short + unknown);
    }
}
