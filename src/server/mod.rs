//! The HTTP interface: strict requests in, durable answers out, and metrics.
//!
//! | method and path | answer |
//! |---|---|
//! | `POST /v1/transactions` | 200 with the outcome; 202 in doubt or still running |
//! | `POST /v1/transactions:batch` | an answer a member: an array, or lines without end (`batch`) |
//! | `GET /v1/transactions/{id}` | 200, 202 while running, 404 |
//! | `GET /v1/transactions?state=…` | what is unresolved, in doubt or stuck, and why |
//! | `POST /v1/transactions:retry-now`, `…/{id}:retry-now` | asks at once what waits to be asked again |
//! | `POST /v1/transactions/{id}:resolve` | takes an operator's word that a branch has ended |
//! | `POST /v1/transactions:predict` | predictions and plan; nothing is done |
//! | `GET /v1/participants` | names, kinds, identities, how each stands, what is prepared there |
//! | `POST /v1/participants/{name}:drain`, `…:resume` | keeps new transactions from it, or not |
//! | `GET /v1/ledgers/{ledger}/accounts/{id}`, `…/verify` | looks into embedded ledgers |
//! | `GET /healthz`, `/readyz`, `/metrics` | for operators |
//!
//! Errors are problem documents ([`problem::Kind`] is the catalogue). A transaction's id is its
//! idempotency key. Nothing is authenticated yet, so only loopback is listened on unless told
//! otherwise. The server decides nothing about transactions and keeps no state of them.

mod api;
pub mod backend;
mod batch;
mod coordinator;
mod fields;
pub mod json;
pub mod lines;
mod listener;
mod metrics;
mod operator;
mod options;
pub mod problem;
pub mod request;

pub use backend::{Backend, NotReady, ParticipantView, Reading, Service, StoreReading};
pub use listener::{Error, Server};
pub use options::{Options, OptionsError};

#[cfg(test)]
mod tests;
