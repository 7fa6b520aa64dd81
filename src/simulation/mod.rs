//! Worlds, and histories generated from them.
//!
//! A [`world::World`] holds every law and every magnitude; [`generate::Generator`] draws payments
//! from it in the order of time, with the hidden truth beside each. Features and policy know
//! nothing of a world, and share no constant with one.
//!
//! [`faults`] is another simulation: the real coordinator among everything that can fail.

pub mod faults;
pub mod files;
pub mod generate;
pub mod world;

mod check;
mod draft;
mod fraud;
mod kinds;
mod laws;
mod options;
mod outcome;
mod participants;
mod population;
mod traffic;

#[cfg(test)]
mod tests;

pub use files::{Output, Summary};
pub use fraud::Typology;
pub use generate::{Generated, Generator, Truth};
pub use options::{CUSTOMERS_MAX, DAYS_MAX, Options, ROWS_MAX};
pub use population::{Counterparty, SimulatedCustomer};
pub use world::{World, WorldError};
