//! Taking a database into service: is it fit, who is it, and nobody of an older epoch is left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Client;
use tokio::sync::Semaphore;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::errors::text;
use super::{Claimed, Inner, check, connection, schema};
use crate::participants::ClaimError;
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
        let pool = connection::pool(&self.options, &name).map_err(|e| unfit(e.to_string()))?;
        let client = connection::session(&pool).await.map_err(unreachable)?;

        let findings = check::server(&client, &self.options).await.map_err(failed)?;
        if let Some(fault) = findings.iter().find(|finding| !finding.ok) {
            return Err(unfit(fault.to_string()));
        }
        let server = client.query_one(schema::SERVER, &[]).await.map_err(failed)?;
        let identity = format!("postgres:{}", server.get::<_, Uuid>(0).simple());

        let types = self.types(&client).await.map_err(unfit)?;

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
        let slots = Arc::new(Semaphore::new(slots as usize));
        self.claimed.store(Some(Arc::new(Claimed { pool, types, slots })));
        Ok(identity)
    }

    /// The parameter types of every operation, as the server sees them; `Err` names the operation
    /// that it refuses.
    async fn types(&self, client: &Client) -> Result<BTreeMap<OperationName, Vec<Type>>, String> {
        let mut types = BTreeMap::new();
        for (name, statement) in &self.statements {
            let prepared = client.prepare_cached(&statement.sql).await;
            let prepared =
                prepared.map_err(|error| format!("operation {name}: {}", text(&error)))?;
            types.insert(name.clone(), prepared.params().to_vec());
        }
        Ok(types)
    }
}

/// Ends the sessions of older epochs and waits until they are gone: what they had begun is rolled
/// back or prepared by then.
async fn end_older(client: &Client, log: LogId, name: &str) -> Result<(), tokio_postgres::Error> {
    let prefix = connection::application_prefix(log);
    loop {
        let left = client.query(schema::END_OLDER, &[&prefix, &name]).await?;
        if left.is_empty() {
            return Ok(());
        }
        tracing::info!(sessions = left.len(), "ends sessions of an older epoch");
        tokio::time::sleep(GONE_INTERVAL).await;
    }
}
