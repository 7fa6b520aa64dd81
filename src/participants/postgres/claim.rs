//! Taking a database into service: is it fit, who is it, and nobody of an older epoch is left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Client;
use tokio::sync::Semaphore;
use tokio_postgres::types::{Kind, Type};
use uuid::Uuid;

use super::connection::Holder;
use super::errors::text;
use super::{Claimed, Inner, Understood, check, connection, schema};
use crate::participants::sql::Statement;
use crate::participants::{ClaimError, ConfigurationError, GRACE};
use crate::txn::{Epoch, LogId, OperationName};

/// How often it is looked whether the sessions of older epochs are gone.
const GONE_INTERVAL: Duration = Duration::from_millis(20);

impl Inner {
    /// Claims an epoch. The caller bounds the time.
    pub(super) async fn claim(&self, log: LogId, epoch: Epoch) -> Result<String, ClaimError> {
        let name = connection::application_name(log, epoch);
        let unfit = |detail: String| ClaimError::Unfit { detail };
        let unreachable = |detail: String| ClaimError::Unreachable { detail };
        let failed = |error: tokio_postgres::Error| unreachable(text(&error));
        let refused = |error: ConfigurationError| unfit(error.to_string());
        let pool = connection::pool(&self.options, &self.route, &name, None).map_err(refused)?;
        let client = connection::session(&pool).await.map_err(unreachable)?;

        let findings = check::server(&client, &self.options).await.map_err(failed)?;
        if let Some(fault) = findings.iter().find(|finding| !finding.ok) {
            return Err(unfit(fault.to_string()));
        }
        let server = client.query_one(schema::SERVER, &[]).await.map_err(failed)?;
        let identity = format!("postgres:{}", server.get::<_, Uuid>(0).simple());

        let operations = self.understand(&client).await.map_err(unfit)?;

        let number = i64::try_from(epoch.0).expect("counted from 1, one a start");
        let claim = client.query_opt(schema::CLAIM, &[&log.0, &number, &self.process]).await;
        if claim.map_err(failed)?.is_none() {
            let known = client.query_one(schema::CLAIMED, &[&log.0]).await.map_err(failed)?;
            let known = u64::try_from(known.get::<_, i64>(0)).unwrap_or_default();
            return Err(ClaimError::Stale { participant: identity, known, claimed: epoch.0 });
        }
        end_older(&client, log, &name).await.map_err(failed)?;

        let prepared_max: i32 = client
            .query_one("SELECT current_setting('max_prepared_transactions')::int", &[])
            .await
            .map_err(failed)?
            .get(0);
        let slots = u32::try_from(prepared_max).unwrap_or(0);
        let slots = slots.saturating_sub(self.options.prepared_reserve).max(1);
        drop(client);
        let holder = Holder { log, epoch, process: self.process };
        let pool =
            connection::pool(&self.options, &self.route, &name, Some(holder)).map_err(refused)?;
        let slots = Arc::new(Semaphore::new(slots as usize));
        self.claimed.store(Some(Arc::new(Claimed { pool, operations, slots })));
        Ok(identity)
    }

    /// What the server makes of every operation; `Err` names the one that it refuses.
    async fn understand(
        &self,
        client: &Client,
    ) -> Result<BTreeMap<OperationName, Understood>, String> {
        let mut operations = BTreeMap::new();
        for (name, statement) in &self.statements {
            let prepared = client.prepare_cached(&statement.sql).await;
            let prepared =
                prepared.map_err(|error| format!("operation {name}: {}", text(&error)))?;
            let types = prepared.params().to_vec();
            check_locks(statement, &types).map_err(|why| format!("operation {name}: {why}"))?;
            if let Some(batch) = &statement.batch {
                let prepared = client.prepare_cached(&batch.sql).await;
                let prepared = prepared
                    .map_err(|error| format!("operation {name}: batch_sql: {}", text(&error)))?;
                check_batch(&prepared, statement, &batch.parameters, &types)
                    .map_err(|why| format!("operation {name}: batch_sql: {why}"))?;
            }
            let marking = marking(client, statement, &types).await;
            operations.insert(name.clone(), Understood { types, marking });
        }
        Ok(operations)
    }
}

/// Whether each value that stands in the name of a lock has one spelling: two members must not take
/// one row for two.
fn check_locks(statement: &Statement, types: &[Type]) -> Result<(), String> {
    let plain = [
        Type::BOOL,
        Type::INT2,
        Type::INT4,
        Type::INT8,
        Type::TEXT,
        Type::VARCHAR,
        Type::BPCHAR,
        Type::UUID,
    ];
    for name in statement.locking() {
        let of_it = statement.parameters.iter().zip(types).find(|(known, _)| *known == name);
        let Some((_, found)) = of_it else { continue };
        let known = plain.contains(found) || matches!(found.kind(), Kind::Enum(_));
        if !known && found.name() != "citext" {
            return Err(format!(
                "a lock names ${name}, a {}, of which one value can be written in several ways; it \
                 can name whole numbers, texts and UUIDs",
                found.name()
            ));
        }
    }
    Ok(())
}

/// Whether a statement for many takes lists of what that for one takes, and names its members.
fn check_batch(
    prepared: &tokio_postgres::Statement,
    statement: &Statement,
    names: &[String],
    types: &[Type],
) -> Result<(), String> {
    for (name, found) in names.iter().zip(prepared.params()) {
        let of_one = statement.parameters.iter().zip(types).find(|(known, _)| *known == name);
        let Kind::Array(element) = found.kind() else {
            return Err(format!("${name} is {}, not a list: write ${name}::…[]", found.name()));
        };
        let fits = match of_one {
            Some((_, r#type)) => element == r#type,
            None => [Type::INT4, Type::INT8].contains(element),
        };
        if !fits {
            let wanted = of_one.map_or("int4 or int8", |(_, r#type)| r#type.name());
            return Err(format!("${name} is a list of {}, not of {wanted}", element.name()));
        }
    }
    match prepared.columns().first().map(tokio_postgres::Column::type_) {
        Some(&Type::INT4 | &Type::INT8) => Ok(()),
        Some(other) => Err(format!("its first column is {}, not the member", other.name())),
        None => Err("it gives no rows: RETURNING the member is missing".to_owned()),
    }
}

/// The statement with the marker in it, if the server takes it: a table with rewrite rules, say,
/// does not.
async fn marking(client: &Client, statement: &Statement, types: &[Type]) -> Option<Arc<str>> {
    let verb = statement.sql.split(|c: char| !c.is_ascii_alphabetic()).next()?;
    let changes = ["insert", "update", "delete"];
    if !changes.iter().any(|change| verb.eq_ignore_ascii_case(change)) {
        return None;
    }
    let sql = format!("{}{}", schema::marking(types.len()), statement.sql);
    let prepared = client.prepare_cached(&sql).await;
    let same = prepared.as_ref().is_ok_and(|prepared| prepared.params().starts_with(types));
    same.then(|| sql.into())
}

/// Ends the sessions of older epochs and waits until they are gone: what they had begun is rolled
/// back or prepared by then. First they may bring to its end what they decided.
async fn end_older(client: &Client, log: LogId, name: &str) -> Result<(), tokio_postgres::Error> {
    let prefix = connection::application_prefix(log);
    if !client.query(schema::OLDER, &[&prefix, &name]).await?.is_empty() {
        tokio::time::sleep(GRACE).await;
    }
    loop {
        let left = client.query(schema::END_OLDER, &[&prefix, &name]).await?;
        if left.is_empty() {
            return Ok(());
        }
        tracing::info!(sessions = left.len(), "ends sessions of an older epoch");
        tokio::time::sleep(GONE_INTERVAL).await;
    }
}
