//! What `presume bench commit` says.

use comfy_table::Table;
use serde::Serialize;

use super::arrivals::Spacing;
use super::load::Run;
use super::targets::Kinds;
use super::workload::Accounts;

/// One number of transfers in flight, or one rate, in one round.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    /// Kept in flight; in an open loop, the most that may be.
    pub(super) in_flight: usize,
    /// Arrivals a second of an open loop.
    pub(super) rate: Option<f64>,
    /// How many came in all, the same for all three.
    pub(super) arrival_count: Option<u64>,
    pub(super) round: usize,
    /// The bare protocol: in a closed loop at its best number of clients, and at 64; in an open
    /// loop at the same rate.
    pub(super) bare_clients: usize,
    pub(super) bare: Run,
    pub(super) bare_at_64: Run,
    /// Ours with every transaction alone: between databases with no more at once than sessions.
    pub(super) uncoalesced_in_flight: usize,
    pub(super) uncoalesced: Run,
    /// Ours.
    pub(super) presume: Run,
    /// Transfers a second of `presume` over those of `bare`.
    pub(super) ratio_to_bare: f64,
    /// The same over `uncoalesced`.
    pub(super) ratio_to_uncoalesced: f64,
    /// Its answer's median and 99th percentile over those of the bare protocol at 64 clients.
    pub(super) p50_to_bare_at_64: f64,
    pub(super) p99_to_bare_at_64: f64,
    /// Of all stores together, where they are embedded.
    pub(super) transfers_per_flush: Option<f64>,
}

/// Medians over the rounds of one number in flight or one rate.
#[derive(Debug, Serialize)]
pub(super) struct Medians {
    pub(super) in_flight: usize,
    pub(super) rate: Option<f64>,
    rounds: usize,
    bare_per_second: f64,
    uncoalesced_per_second: f64,
    presume_per_second: f64,
    pub(super) ratio_to_bare: f64,
    pub(super) ratio_to_uncoalesced: f64,
    pub(super) bare_p50_ms: f64,
    pub(super) bare_p99_ms: f64,
    pub(super) uncoalesced_p50_ms: f64,
    pub(super) uncoalesced_p99_ms: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    p50_to_bare_at_64: f64,
    p99_to_bare_at_64: f64,
    p50_to_uncoalesced: f64,
}

/// Everything that `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) participants: Kinds,
    pub(super) participant_count: usize,
    pub(super) read_only: usize,
    pub(super) accounts: Accounts,
    pub(super) declines_percent: f64,
    /// Of an open loop.
    pub(super) arrivals: Option<Spacing>,
    pub(super) predictions: String,
    pub(super) outcome_log: &'static str,
    /// Appends of 512 bytes to a file, each made durable.
    pub(super) bare_flushes_per_second: f64,
    pub(super) medians: Vec<Medians>,
    pub(super) rounds: Vec<Figures>,
}

impl Report {
    pub(super) fn add(&mut self, (predictions, figures): (String, Figures)) {
        self.predictions = predictions;
        self.rounds.push(figures);
    }

    /// Takes the medians, in the order in which things were measured.
    pub(super) fn conclude(&mut self) {
        let first = self.rounds.iter().filter(|figures| figures.round == 0);
        self.medians = first.map(|of| medians((of.in_flight, of.rate), &self.rounds)).collect();
    }
}

/// Of at least one value.
pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.collect();
    all.sort_by(f64::total_cmp);
    f64::midpoint(all[(all.len() - 1) / 2], all[all.len() / 2])
}

fn medians((in_flight, rate): (usize, Option<f64>), rounds: &[Figures]) -> Medians {
    let of: Vec<_> = rounds.iter().filter(|f| (f.in_flight, f.rate) == (in_flight, rate)).collect();
    let median = |value: &dyn Fn(&Figures) -> f64| median(of.iter().map(|figures| value(figures)));
    Medians {
        in_flight,
        rate,
        rounds: of.len(),
        bare_per_second: median(&|f| f.bare.transfers_per_second),
        uncoalesced_per_second: median(&|f| f.uncoalesced.transfers_per_second),
        presume_per_second: median(&|f| f.presume.transfers_per_second),
        ratio_to_bare: median(&|f| f.ratio_to_bare),
        ratio_to_uncoalesced: median(&|f| f.ratio_to_uncoalesced),
        bare_p50_ms: median(&|f| f.bare_at_64.answer_ms_p50),
        bare_p99_ms: median(&|f| f.bare_at_64.answer_ms_p99),
        uncoalesced_p50_ms: median(&|f| f.uncoalesced.answer_ms_p50),
        uncoalesced_p99_ms: median(&|f| f.uncoalesced.answer_ms_p99),
        p50_ms: median(&|f| f.presume.answer_ms_p50),
        p99_ms: median(&|f| f.presume.answer_ms_p99),
        p50_to_bare_at_64: median(&|f| f.p50_to_bare_at_64),
        p99_to_bare_at_64: median(&|f| f.p99_to_bare_at_64),
        p50_to_uncoalesced: median(&|f| f.presume.answer_ms_p50 / f.uncoalesced.answer_ms_p50),
    }
}

pub(super) fn describe(report: &Report) -> String {
    let mut ratios = Table::new();
    ratios.set_header([
        "arrivals/s",
        "in flight",
        "bare/s",
        "alone/s",
        "presume/s",
        "to bare",
        "to alone",
        "p50 ms",
        "p99 ms",
        "p50 to bare at 64",
        "p99 to bare at 64",
    ]);
    for m in &report.medians {
        ratios.add_row([
            m.rate.map_or("-".to_owned(), |rate| rate.to_string()),
            m.in_flight.to_string(),
            format!("{:.0}", m.bare_per_second),
            format!("{:.0}", m.uncoalesced_per_second),
            format!("{:.0}", m.presume_per_second),
            format!("{:.2}", m.ratio_to_bare),
            format!("{:.2}", m.ratio_to_uncoalesced),
            format!("{:.2}", m.p50_ms),
            format!("{:.2}", m.p99_ms),
            format!("{:.2}", m.p50_to_bare_at_64),
            format!("{:.2}", m.p99_to_bare_at_64),
        ]);
    }
    format!(
        "{ratios}\n{}\nmedians above, the last round below; loop: {}; predictions: {}; outcome \
         log: {}; {:.0} bare flushes/s\nbare: work and prepare at all, then commit at all; no \
         log, no marker; in a closed loop at its best number of clients\n",
        costs(report),
        match report.arrivals {
            Some(Spacing::Poisson) => "open, Poisson arrivals",
            Some(Spacing::Fixed) => "open, evenly spaced arrivals",
            None => "closed",
        },
        report.predictions,
        report.outcome_log,
        report.bare_flushes_per_second,
    )
}

/// What a committed transfer cost in the last round.
fn costs(report: &Report) -> Table {
    let mut table = Table::new();
    table.set_header([
        "arrivals/s",
        "in flight",
        "",
        "CPU ms own",
        "CPU ms others",
        "flushes own",
        "flushes there",
        "declined",
        "failed",
        "refused",
    ]);
    let figure = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
    let last = report.rounds.iter().map(|figures| figures.round).max();
    for f in report.rounds.iter().filter(|figures| Some(figures.round) == last) {
        let runs = [("bare", &f.bare), ("alone", &f.uncoalesced), ("presume", &f.presume)];
        for (name, run) in runs {
            table.add_row([
                f.rate.map_or("-".to_owned(), |rate| rate.to_string()),
                f.in_flight.to_string(),
                name.to_owned(),
                figure(run.cpu_ms_own),
                figure(run.cpu_ms_others),
                figure(run.flushes_own),
                figure(run.flushes_participants),
                run.declined.to_string(),
                run.failed.to_string(),
                run.refused.to_string(),
            ]);
        }
    }
    table
}
