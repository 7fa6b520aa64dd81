//! The one integration binary: one link, one list of modules.
//!
//! `layers` checks that every file beside this one is declared here.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod bad_input;
mod kill;
mod layers;
mod retrain;
mod server;
