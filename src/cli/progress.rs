//! Progress bars, on a terminal only.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};

/// Shows how far a command is; silent where nobody watches.
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar over `total` steps, such as rows. `quiet` (as with `--json`) hides it.
    pub fn new(what: impl Into<Cow<'static, str>>, total: u64, quiet: bool) -> Self {
        let bar = if quiet || !std::io::stderr().is_terminal() {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(total)
        };
        let style = ProgressStyle::with_template(
            "{msg:24} {wide_bar} {human_pos}/{human_len} {rate:>12} {eta:>5}",
        );
        let style = style.expect("the template is constant and well-formed");
        let rate = |state: &ProgressState, text: &mut dyn std::fmt::Write| {
            // Who cannot show it has no bar either.
            let _ = write!(text, "{}/s", HumanCount(state.per_sec() as u64));
        };
        bar.set_style(style.with_key("rate", rate));
        bar.set_message(what);
        Self(bar)
    }

    /// A spinner for work of unknown length.
    pub fn spinner(what: impl Into<Cow<'static, str>>, quiet: bool) -> Self {
        let bar = if quiet || !std::io::stderr().is_terminal() {
            ProgressBar::hidden()
        } else {
            ProgressBar::new_spinner()
        };
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(bar)
    }

    /// Moves on by `steps`.
    pub fn advance(&self, steps: u64) {
        self.0.inc(steps);
    }

    /// Moves to `position`.
    pub fn set(&self, position: u64) {
        self.0.set_position(position);
    }

    /// Moves to `position` of a `total` that was not known before.
    pub fn set_total(&self, total: u64, position: u64) {
        self.0.set_length(total);
        self.0.set_position(position);
    }

    /// Says what is being done now.
    pub fn message(&self, what: impl Into<Cow<'static, str>>) {
        self.0.set_message(what);
    }

    /// Whether anybody sees it.
    pub fn is_shown(&self) -> bool {
        !self.0.is_hidden()
    }

    /// Prints a line above the bar, or to standard error where there is none.
    pub fn line(&self, text: &str) {
        if self.0.is_hidden() {
            eprintln!("{text}");
        } else {
            self.0.println(text);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
