//! What a database needs to take part, what it lacks, and the statement that mends it.

use deadpool_postgres::Client;

use tokio_postgres::error::SqlState;

use super::errors::{is, text};
use super::{Options, Postgres, connection, schema};
use crate::participants::Finding;
use crate::txn::{Epoch, LogId, PhysicalId};

/// The oldest server with `client_connection_check_interval`.
const VERSION_MIN: i32 = 140_000;

/// Everything that a claim insists on.
pub(super) async fn server(
    client: &Client,
    options: &Options,
) -> Result<Vec<Finding>, tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::int, current_setting('server_version'),
                    current_setting('max_prepared_transactions')::int, current_setting('fsync'),
                    current_setting('full_page_writes'), pg_is_in_recovery()",
            &[],
        )
        .await?;
    let (version, prepared): (i32, i32) = (row.get(0), row.get(2));
    let mut findings = vec![
        Finding::new(
            "version",
            version >= VERSION_MIN,
            format!("PostgreSQL {}, 14 or later is needed", row.get::<_, &str>(1)),
            "an upgrade",
        ),
        Finding::new(
            "writable",
            !row.get::<_, bool>(5),
            if row.get(5) { "it is a standby" } else { "it takes writes" },
            "the URL of the primary",
        ),
        Finding::new(
            "max_prepared_transactions",
            prepared > 0,
            prepared.to_string(),
            "ALTER SYSTEM SET max_prepared_transactions = 200; then restart the server",
        ),
    ];
    for (name, value) in [("fsync", row.get::<_, &str>(3)), ("full_page_writes", row.get(4))] {
        let allowed = options.allow_unsafe.iter().any(|allowed| allowed == name);
        let remedy = format!("ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf();");
        findings.push(Finding::new(name, value == "on" || allowed, value, &remedy));
    }
    let tables: bool = client.query_one(schema::EXISTS, &[]).await?.get(0);
    let found = if tables { "there" } else { "schema presume is not there" };
    let remedy = "presume participants init NAME (or the statements of `init --print`)";
    findings.push(Finding::new("tables", tables, found, remedy));
    if tables {
        findings.push(table_version(client).await?);
        findings.push(rights(client).await?);
    }
    Ok(findings)
}

async fn table_version(client: &Client) -> Result<Finding, tokio_postgres::Error> {
    let row = client.query_opt(schema::SERVER, &[]).await?;
    let remedy = "presume participants init NAME";
    Ok(match row.map(|row| row.get::<_, i32>(1)) {
        Some(version) => {
            let ours = schema::VERSION;
            let found = format!("version {version}, this program knows {ours}");
            Finding::new("tables' version", version == ours, found, remedy)
        }
        None => Finding::new("tables' version", false, "presume.server is empty", remedy),
    })
}

async fn rights(client: &Client) -> Result<Finding, tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT has_table_privilege('presume.epoch', 'SELECT, INSERT, UPDATE')
                AND has_table_privilege('presume.marker', 'SELECT, INSERT, DELETE'), current_user::text",
            &[],
        )
        .await?;
    let user: &str = row.get(1);
    let remedy = format!(
        "GRANT USAGE ON SCHEMA presume TO {user}; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA presume TO {user};"
    );
    let found = format!("of {user} on the tables of schema presume");
    Ok(Finding::new("rights", row.get(0), found, &remedy))
}

impl Postgres {
    /// Looks at everything that taking part needs, the operations included; claims nothing.
    pub async fn check(&self) -> Result<Vec<Finding>, String> {
        let client = self.visit().await?;
        let mut findings = server(&client, &self.0.options).await.map_err(|error| text(&error))?;
        for (name, statement) in &self.0.statements {
            let remedy = format!("the SQL of operation {name} in the configuration");
            let finding = match client.prepare(&statement.sql).await {
                Ok(prepared) => {
                    let types = prepared.params().iter().map(tokio_postgres::types::Type::name);
                    let named = statement.parameters.iter().zip(types);
                    let named: Vec<_> = named.map(|(name, ty)| format!("{name} {ty}")).collect();
                    Finding::new("operation", true, format!("{name}({})", named.join(", ")), "")
                }
                Err(error) => {
                    Finding::new("operation", false, format!("{name}: {}", text(&error)), &remedy)
                }
            };
            findings.push(finding);
        }
        Ok(findings)
    }

    /// Makes our tables where they are missing.
    pub async fn init(&self) -> Result<(), String> {
        let client = self.visit().await?;
        client.batch_execute(schema::CREATE).await.map_err(|error| text(&error))
    }

    /// The statements of [`Postgres::init`], for a person who has the rights.
    pub fn init_statements() -> &'static str {
        schema::CREATE
    }

    /// See [`Participant::newest_commit`](crate::participants::Participant::newest_commit).
    pub(super) async fn newest(
        &self,
        log: LogId,
        before: Epoch,
    ) -> Result<Option<(Epoch, PhysicalId)>, String> {
        let client = self.visit().await?;
        let before = i64::try_from(before.0).expect("counted from 1, one a start");
        match client.query_opt(schema::NEWEST, &[&log.0, &before]).await {
            Ok(row) => Ok(row.map(|row| {
                let number = |at| u64::try_from(row.get::<_, i64>(at)).unwrap_or_default();
                (Epoch(number(0)), PhysicalId(number(1)))
            })),
            // A claim says so.
            Err(error) if is(&error, &SqlState::UNDEFINED_TABLE) => Ok(None),
            Err(error) => Err(text(&error)),
        }
    }

    async fn visit(&self) -> Result<Client, String> {
        let pool = connection::pool(&self.0.options, &self.0.route, "presume check", None);
        connection::session(&pool.map_err(|error| error.to_string())?).await
    }
}
