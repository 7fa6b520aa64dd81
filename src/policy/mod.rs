//! Predictions in, plan with reasons out.
