//! The figures in one sentence a target.

use super::{Evaluation, Verdict, in_order};

impl Evaluation {
    /// For each evaluated target its name and whether the champion beats each baseline.
    pub fn verdicts(&self) -> Vec<(&'static str, String)> {
        let mut sentences = Vec::new();
        for (target, rows) in self.targets.classifiers() {
            let of = |wanted: &[Verdict]| {
                in_order(rows)
                    .into_iter()
                    .filter(|(_, row)| row.vs_champion.is_some_and(|v| wanted.contains(&v.verdict)))
                    .map(|(name, _)| name.replace('_', " "))
                    .collect::<Vec<_>>()
            };
            let parts = [
                ("beats", "in log loss and Brier score", of(&[Verdict::Better])),
                ("beats", "in one of the two losses only", of(&[Verdict::BetterInOne])),
                ("is not clearly different from", "", of(&[Verdict::Unclear])),
                ("is worse than", "in log loss or Brier score", of(&[Verdict::Worse])),
            ];
            let said: Vec<String> = parts
                .into_iter()
                .filter(|(_, _, names)| !names.is_empty())
                .map(|(verb, how, names)| {
                    format!("{verb} {} {how}", joined(&names)).trim_end().to_owned()
                })
                .collect();
            sentences.push((target, format!("The champion {}.", said.join("; it "))));
        }
        if let Some(sentence) = self.latency_verdict() {
            sentences.push(("latency", sentence));
        }
        sentences
    }

    fn latency_verdict(&self) -> Option<String> {
        let champion = self.targets.latency.get("champion")?;
        let percent =
            |x: Option<f64>| x.map_or("–".to_owned(), |x| format!("{:.2} %", 100.0 * x));
        let wait = |x: Option<f64>| x.map_or("–".to_owned(), |x| format!("{x:.0} ms"));
        let others: Vec<String> = in_order(&self.targets.latency)
            .into_iter()
            .filter(|(name, _)| ["static_5s", "reference_rule", "sliding_p999"].contains(name))
            .map(|(name, row)| {
                let (aborts, waits) = (row.score.false_abort_ratio, row.score.dead_wait_ms);
                format!("{} {} and {}", name.replace('_', " "), percent(aborts), wait(waits))
            })
            .collect();
        Some(format!(
            "The champion's timeouts cover {} of the votes that came (target {}), abort {} falsely \
             and wait {} on the dead; {}.",
            percent(champion.score.coverage),
            percent(Some(self.timeout_level)),
            percent(champion.score.false_abort_ratio),
            wait(champion.score.dead_wait_ms),
            others.join(", "),
        ))
    }
}

/// "a", "a and b", "a, b and c".
fn joined(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [before @ .., last] => format!("{} and {last}", before.join(", ")),
    }
}
