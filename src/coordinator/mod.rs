//! The coordinator: from a checked request to a durable, atomic outcome.

mod answer;

pub use answer::{Answer, Insights, Predicted, Submission, SubmitError, Timings, Wait};
