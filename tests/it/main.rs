//! The one integration binary: one link, one list of modules.
//!
//! `layers` checks that every file beside this one is declared here.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]
#![allow(clippy::disallowed_methods, reason = "a test of processes is a shell, too")]

mod backpressure;
mod bad_input;
mod banks;
mod batch_banks;
mod batch_hot;
mod batch_oracle;
mod batch_traps;
mod batches;
mod bench;
mod branches;
mod certificates;
mod contract;
mod cuts;
mod doubts;
mod endurance;
mod failure_classes;
mod house;
mod http_batches;
mod http_coalesced;
mod http_conform;
mod http_service;
mod http_transfers;
mod installed;
mod kill;
mod kill_batches;
mod layers;
mod load;
mod middleman;
mod mysql;
mod mysql_server;
mod mysql_traps;
mod operator;
mod pair;
mod postgres;
mod postgres_server;
mod postgres_traps;
mod processes;
mod proxy;
mod resolution;
mod retrain;
mod server;
mod stops;
mod tls;
mod wallet_server;
mod wholesale;
