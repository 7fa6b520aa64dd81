//! What a run came to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::cli::Refused;

/// Refused lines that are told one by one; all of them are among the results.
const REFUSALS_COUNT_MAX: usize = 20;

/// Counts over all lines of a file.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// Lines that are not blank; those that were read, where the end was not.
    pub lines: u64,
    /// Answered by an earlier run; among the outcomes, too.
    pub answered_before: u64,
    /// Lines by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Lines that the server refuses as they are.
    pub refused: u64,
    /// Which they are, the first of them.
    pub refusals: Vec<Refusal>,
    /// Lines without an answer.
    pub left: u64,
    /// Connections that broke or could not be made.
    pub interruptions: u64,
    /// Why it ended before its end.
    pub gave_up: Option<String>,
    /// How long it took.
    pub elapsed_s: f64,
    /// Lines answered a second in this run.
    pub answered_per_s: f64,
}

/// A line that was refused.
#[derive(Debug, Serialize)]
pub struct Refusal {
    /// Its number in the file, from 1.
    pub line: u64,
    /// Where in it, if that is known.
    pub column: Option<u64>,
    pub id: String,
    pub status: u64,
    pub detail: String,
}

impl Summary {
    /// Takes what is wrong with a line.
    pub fn refuse(&mut self, line: u64, id: &str, problem: &Value) {
        self.refused += 1;
        if self.refusals.len() < REFUSALS_COUNT_MAX {
            self.refusals.push(Refusal {
                line,
                column: problem["column"].as_u64(),
                id: id.to_owned(),
                status: problem["status"].as_u64().unwrap_or_default(),
                detail: problem["detail"].as_str().unwrap_or("no detail given").to_owned(),
            });
        }
    }

    pub fn count(&mut self, outcome: &str) {
        // Few and known: a name is made once each.
        match self.outcomes.get_mut(outcome) {
            Some(count) => *count += 1,
            None => drop(self.outcomes.insert(outcome.to_owned(), 1)),
        }
    }

    /// Lines with a final answer.
    pub fn answered(&self) -> u64 {
        self.outcomes.values().sum::<u64>() + self.refused
    }

    pub fn finish(&mut self, elapsed: Duration) {
        self.lines = self.lines.max(self.answered());
        self.left = self.lines - self.answered();
        self.elapsed_s = elapsed.as_secs_f64();
        let now = self.answered() - self.answered_before;
        self.answered_per_s = now as f64 / self.elapsed_s.max(1e-9);
    }

    /// Counts in a few words, for a progress bar.
    pub fn short(&self) -> String {
        let mut words: Vec<String> =
            self.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        if self.refused > 0 {
            words.push(format!("{} refused", self.refused));
        }
        words.join(", ")
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            writeln!(text, "  {name:<22}{value}").expect("a String takes every write");
        };
        line("lines", self.lines.to_string());
        if self.answered_before > 0 {
            line("answered before", self.answered_before.to_string());
        }
        for (outcome, count) in &self.outcomes {
            line(outcome, count.to_string());
        }
        for (name, count) in
            [("refused", self.refused), ("left", self.left), ("interruptions", self.interruptions)]
        {
            if count > 0 {
                line(name, count.to_string());
            }
        }
        line("took", format!("{:.1} s, {:.0} lines/s", self.elapsed_s, self.answered_per_s));
        for refusal in &self.refusals {
            let Refusal { line, id, detail, .. } = refusal;
            let column = refusal.column.map_or(String::new(), |at| format!(":{at}"));
            writeln!(text, "  line {line}{column}, {id}: {detail}").expect("as above");
        }
        let more = self.refused - self.refusals.len() as u64;
        if more > 0 {
            writeln!(text, "  and {more} lines more, each among the results").expect("as above");
        }
        text
    }

    /// The exit code: as for one transaction, the worst of all.
    pub fn conclude(&self) -> anyhow::Result<()> {
        if self.left > 0 || self.gave_up.is_some() {
            let why = self.gave_up.as_deref().unwrap_or("the server gave none");
            let (left, lines) = (self.left, self.lines);
            let text = format!("{left} of {lines} lines have no answer: {why}; run it again");
            return Err(Refused::Unknown(text).into());
        }
        let committed = self.outcomes.get("committed").copied().unwrap_or(0);
        if committed < self.lines {
            let (not, lines) = (self.lines - committed, self.lines);
            return Err(Refused::No(format!("{not} of {lines} lines were not committed")).into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::exit;

    #[test]
    fn the_exit_code_is_that_of_the_worst_line() {
        let code = |committed: u64, aborted: u64, refused: u64, lines: u64| {
            let counts = [("committed", committed), ("aborted", aborted)];
            let outcomes = counts.map(|(name, count)| (name.to_owned(), count)).into();
            let mut summary = Summary { lines, outcomes, refused, ..Summary::default() };
            summary.finish(Duration::from_secs(2));
            (summary.conclude().map_or_else(|error| exit::code(&error), |()| 0), summary.left)
        };
        assert_eq!(code(5, 0, 0, 5), (0, 0));
        assert_eq!(code(0, 0, 0, 0), (0, 0));
        assert_eq!(code(4, 1, 0, 5), (3, 0));
        assert_eq!(code(4, 0, 1, 5), (3, 0));
        assert_eq!(code(3, 1, 0, 5), (4, 1));
    }

    #[test]
    fn refused_lines_are_told_up_to_a_limit() {
        let mut summary = Summary { lines: 25, ..Summary::default() };
        for line in 1..=25 {
            let mut problem = json!({"status": 422, "detail": "kind: is missing"});
            if line == 2 {
                problem["column"] = 7.into();
            }
            summary.refuse(line, &format!("p{line}"), &problem);
        }
        summary.finish(Duration::from_secs(1));
        let text = summary.text();
        for told in
            ["\n  line 1, p1: kind: is missing\n", "\n  line 2:7, p2:", "line 20,", "and 5 "]
        {
            assert!(text.contains(told), "{told} is not in\n{text}");
        }
        assert!(!text.contains("line 21"), "{text}");
    }
}
