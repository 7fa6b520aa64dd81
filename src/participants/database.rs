//! A configured database, of whatever make: what a command line asks of all of them.

use std::sync::Arc;

use super::mysql::Mysql;
use super::postgres::Postgres;
use super::{Finding, Participant};

/// A database participant that is not connected to yet.
#[derive(Clone)]
pub enum Database {
    /// `PostgreSQL`.
    Postgres(Postgres),
    /// `MySQL` or `MariaDB`.
    Mysql(Mysql),
}

impl Database {
    /// Its kind in the configuration.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Mysql(_) => "mysql",
        }
    }

    /// The participant that transactions see.
    pub fn participant(&self) -> Arc<dyn Participant> {
        match self {
            Self::Postgres(database) => Arc::new(database.clone()),
            Self::Mysql(database) => Arc::new(database.clone()),
        }
    }

    /// Looks at everything that taking part needs, the operations included; claims nothing.
    pub async fn check(&self) -> Result<Vec<Finding>, String> {
        match self {
            Self::Postgres(database) => database.check().await,
            Self::Mysql(database) => database.check().await,
        }
    }

    /// Makes our tables where they are missing.
    pub async fn init(&self) -> Result<(), String> {
        match self {
            Self::Postgres(database) => database.init().await,
            Self::Mysql(database) => database.init().await,
        }
    }

    /// The statements of [`Database::init`], for a person who has the rights.
    pub fn init_statements(&self) -> &'static str {
        match self {
            Self::Postgres(_) => Postgres::init_statements(),
            Self::Mysql(_) => Mysql::init_statements(),
        }
    }
}
