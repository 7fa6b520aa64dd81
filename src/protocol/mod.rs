//! Sans-IO commit protocol engines: inputs in, actions out, no clock, no task, no socket.
//!
//! An engine is told the time that has passed since its transaction started, so that a jump of
//! the wall clock cannot touch it. Log-before-send lives here: an engine asks for a record to be
//! made durable and emits what depends on it only after it hears `Persisted`.

mod backoff;
pub mod two_phase;

pub use backoff::Backoff;
