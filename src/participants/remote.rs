//! A configured participant outside of this process, of whatever make: what a command line asks.

use std::sync::Arc;

use super::http::Http;
use super::mysql::Mysql;
use super::postgres::Postgres;
use super::{Finding, Participant};

/// A database or a service that is not connected to yet.
#[derive(Clone)]
pub enum Remote {
    /// `PostgreSQL`.
    Postgres(Postgres),
    /// `MySQL` or `MariaDB`.
    Mysql(Mysql),
    /// A service over HTTP.
    Http(Http),
}

impl Remote {
    /// Its kind in the configuration.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Mysql(_) => "mysql",
            Self::Http(_) => "http",
        }
    }

    /// The participant that transactions see.
    pub fn participant(&self) -> Arc<dyn Participant> {
        match self {
            Self::Postgres(database) => Arc::new(database.clone()),
            Self::Mysql(database) => Arc::new(database.clone()),
            Self::Http(service) => Arc::new(service.clone()),
        }
    }

    /// Looks at everything that taking part needs, the operations included; claims nothing.
    pub async fn check(&self) -> Result<Vec<Finding>, String> {
        match self {
            Self::Postgres(database) => database.check().await,
            Self::Mysql(database) => database.check().await,
            Self::Http(service) => service.check().await,
        }
    }

    /// Makes our tables where they are missing. A service has none of ours.
    pub async fn init(&self) -> Result<(), String> {
        match self {
            Self::Postgres(database) => database.init().await,
            Self::Mysql(database) => database.init().await,
            Self::Http(_) => Err(OWN_BOOKS.to_owned()),
        }
    }

    /// The statements of [`Remote::init`], for a person who has the rights.
    pub fn init_statements(&self) -> Result<&'static str, String> {
        match self {
            Self::Postgres(_) => Ok(Postgres::init_statements()),
            Self::Mysql(_) => Ok(Mysql::init_statements()),
            Self::Http(_) => Err(OWN_BOOKS.to_owned()),
        }
    }
}

const OWN_BOOKS: &str = "a service keeps its own books: nothing is to be made there";
