//! The one integration binary: one link, one list of modules.
//!
//! `layers` checks that every file beside this one is declared here.

mod layers;
