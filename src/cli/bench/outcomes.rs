//! Made-up outcomes of the size and shape that transfers between two participants have.

use std::time::Duration;

use presume::coordinator::{Answer, Insights, Timings};
use presume::decision_log::{
    DecisionRecord, Given, OutcomeLeg, OutcomeRow, Recorded, RecordedBranch,
};
use presume::features::TXN_WIDTH;
use presume::txn::{
    Admission, BranchPlan, Decision, Epoch, LatencyPrediction, LegVote, Mode, Outcome,
    ParticipantName, PhysicalId, Plan, Prediction, Probability, Protocol, ServedBy, Timestamp,
    TxnId,
};
use uuid::Uuid;

const TEMPLATES: u64 = 512;
/// Of SHA-256 in length.
const REQUEST_HASH: &str = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
const MODEL: &str = "payments/3";
const PARTICIPANTS: [&str; 2] = ["left", "right"];
/// 2026-01-31.
const SUBMITTED: i64 = 1_769_817_600_000_000;

/// The id of the nth transaction, as random as what clients give.
pub fn txn_id(n: u64) -> anyhow::Result<TxnId> {
    let (high, low) = (noise(n), noise(!n));
    Ok(TxnId::new(&Uuid::from_u64_pair(high, low).simple().to_string())?)
}

/// A number that looks random: one step of the generator `SplitMix64`.
fn noise(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn share(n: u64) -> f64 {
    (noise(n) >> 11) as f64 / (1u64 << 53) as f64
}

/// Members of one batch.
pub struct Members(Vec<(Answer, OutcomeRow)>);

impl Members {
    pub fn new(count: usize) -> anyhow::Result<Self> {
        let templates = (0..TEMPLATES).map(template).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self(templates.into_iter().cycle().take(count).collect()))
    }

    /// Makes them those of consecutive transactions: only what tells one from another is changed,
    /// so that little but the log is measured.
    pub fn renew(&mut self, first: u64) -> anyhow::Result<()> {
        for (n, (answer, row)) in (first..).zip(&mut self.0) {
            row.txn_id = txn_id(n)?;
            row.timestamp = Timestamp::from_micros(SUBMITTED + n as i64);
            answer.id = row.txn_id.clone();
        }
        Ok(())
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn recorded(&self) -> Vec<Recorded<'_>> {
        let members = self.0.iter();
        members
            .map(|(answer, row)| {
                (Given { answer, request_hash: REQUEST_HASH, at: row.timestamp }, row)
            })
            .collect()
    }

    pub fn decision(&self, epoch: Epoch, physical: PhysicalId) -> anyhow::Result<DecisionRecord> {
        let branch = |name: &str| -> anyhow::Result<_> {
            let identity = "postgres:7301234567890123456:payments".to_owned();
            Ok(RecordedBranch { participant: ParticipantName::new(name)?, identity })
        };
        Ok(DecisionRecord {
            epoch,
            physical,
            branches: PARTICIPANTS.into_iter().map(branch).collect::<anyhow::Result<_>>()?,
            read_only: vec![],
            members: self.0.iter().map(|(answer, _)| answer.id.clone()).collect(),
            decision: Decision::Commit,
            at: Timestamp::from_micros(SUBMITTED),
        })
    }
}

fn template(n: u64) -> anyhow::Result<(Answer, OutcomeRow)> {
    let id = txn_id(n)?;
    let [left, right] = PARTICIPANTS.map(ParticipantName::new);
    let names = [left?, right?];
    let probability = |n| Probability::new(share(n)).unwrap_or_else(|| unreachable!("a share"));
    let (success, fraud) = (probability(3 * n), probability(3 * n + 1));
    let median = |i: usize| 1.0 + 4.0 * share(5 * n + i as u64);
    let latency = |(i, name): (usize, &ParticipantName)| LatencyPrediction {
        participant: name.clone(),
        median_ms: median(i),
        upper_ms: 20.0 * median(i),
        served_by: ServedBy::Model,
    };
    let prediction = Prediction {
        success,
        success_by: ServedBy::Model,
        fraud,
        fraud_by: ServedBy::Model,
        latency: names.iter().enumerate().map(latency).collect(),
        model_version: MODEL.to_owned(),
    };
    let timeout = |i: usize| Duration::from_nanos((median(i) * 2e7) as u64);
    let plan = Plan {
        admission: Admission::Admit,
        protocol: Protocol::TwoPhase,
        branches: (names.iter().enumerate())
            .map(|(i, name)| BranchPlan { participant: name.clone(), prepare_timeout: timeout(i) })
            .collect(),
        reasons: vec![],
        mode: Mode::Enforce,
    };
    let leg = |(i, name): (usize, &ParticipantName)| OutcomeLeg {
        participant: name.clone(),
        vote: Some(LegVote::Yes),
        prepare_ms: Some(median(i) * share(7 * n)),
        timeout_ms: timeout(i).as_secs_f64() * 1e3,
        late_ms: None,
        in_flight: (noise(n) % 512) as u32,
        health: 1.0,
    };
    // A third of the features of most payments is zero or missing.
    let feature = |i: usize| match noise(n ^ (i as u64) << 20) % 9 {
        0 => f32::NAN,
        1 | 2 => 0.0,
        other => (other as f32) * share(n + i as u64) as f32,
    };
    let total = 5.0 + 10.0 * share(11 * n);
    let answer = Answer {
        id: id.clone(),
        outcome: Outcome::Committed,
        reasons: vec![],
        protocol: Some(Protocol::TwoPhase),
        participants: names.to_vec(),
        insights: Some(Insights {
            success_probability: success,
            fraud_probability: fraud,
            timeout_ms: timeout(0).max(timeout(1)).as_secs_f64() * 1e3,
            confidence: (2.0 * success.get() - 1.0).abs(),
            latency_ms: (names.iter().enumerate())
                .map(|(i, name)| (name.to_string(), median(i)))
                .collect(),
            models: ["fraud", "latency", "success"]
                .map(|target| (target.to_owned(), MODEL.to_owned()))
                .into(),
        }),
        timings_ms: Timings {
            predict: 0.05 * share(n),
            prepare: 0.6 * total,
            commit: 0.3 * total,
            total,
        },
    };
    let row = OutcomeRow {
        txn_id: id,
        timestamp: Timestamp::from_micros(SUBMITTED),
        kind: "UPI".to_owned(),
        customer_id: format!("customer-{}", noise(n) % 100_000),
        customer_type: "RETAIL".to_owned(),
        customer_since: Some(Timestamp::from_micros(SUBMITTED / 2)),
        counterparty_id: Some(format!("merchant-{}", noise(n) % 5_000)),
        amount_minor: (noise(n) % 1_000_000) as i64,
        currency: "INR".to_owned(),
        cross_border: false,
        requires_consistency: true,
        lat: Some(19.0 + share(n)),
        lon: Some(72.0 + share(n)),
        attempt: 1,
        system_load_ratio: Some(share(13 * n)),
        outcome: Outcome::Committed,
        failure_class: None,
        reasons: vec![],
        total_us: (total * 1e3) as u64,
        features: (0..TXN_WIDTH).map(feature).collect(),
        prediction: Some(prediction),
        plan,
        legs: names.iter().enumerate().map(leg).collect(),
    };
    Ok((answer, row))
}
