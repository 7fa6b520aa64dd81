//! Taking a database into service: is it fit, who is it, and nobody of an older epoch is left.

use std::sync::Arc;
use std::time::Duration;

use mysql_async::{Error, Row};
use uuid::Uuid;

use super::errors::text;
use super::sessions::{Session, Sessions};
use super::{Claimed, Inner, check, schema};
use crate::participants::{ClaimError, GRACE};
use crate::txn::{Epoch, LogId};

/// How often it is looked whether the sessions of older epochs are gone.
const GONE_INTERVAL: Duration = Duration::from_millis(20);

impl Inner {
    /// Claims an epoch. The caller bounds the time.
    pub(super) async fn claim(&self, log: LogId, epoch: Epoch) -> Result<String, ClaimError> {
        let unreachable = |detail: String| ClaimError::Unreachable { detail };
        let failed = |error: Error| unreachable(text(&error));
        let visit = Session::visit(&self.options, self.opts.clone()).await;
        let mut session = visit.map_err(unreachable)?;

        let mut findings = check::server(&mut session, &self.options).await.map_err(failed)?;
        if findings.iter().all(|finding| finding.ok) {
            findings = check::operations(&mut session, &self.statements).await.map_err(failed)?;
        }
        if let Some(fault) = findings.iter().find(|finding| !finding.ok) {
            return Err(ClaimError::Unfit { detail: fault.to_string() });
        }
        let mariadb = check::is_mariadb(&mut session).await.map_err(failed)?;
        let database = identity(&mut session).await.map_err(failed)?;
        let identity = format!("mysql:{}", database.simple());

        let claim = schema::claim(log, epoch, self.process);
        session.run(&claim).await.map_err(failed)?;
        let known = session.rows(&schema::claimed(log)).await.map_err(failed)?;
        let (known, by) = known.first().map(holder).unwrap_or_default();
        if known != epoch.0 || by != self.process.as_bytes() {
            return Err(ClaimError::Stale { participant: identity, known, claimed: epoch.0 });
        }
        let sessions = self.sessions(log, epoch);
        end_older(&sessions, &mut session).await.map_err(failed)?;
        self.claimed.store(Some(Arc::new(Claimed { sessions, database, mariadb })));
        Ok(identity)
    }

    /// Those of this epoch: a claim that is repeated must not end what it has.
    fn sessions(&self, log: LogId, epoch: Epoch) -> Arc<Sessions> {
        match self.claimed.load_full() {
            Some(claimed) if claimed.sessions.are_of(log, epoch) => claimed.sessions.clone(),
            _ => {
                let opts = self.opts.clone();
                Arc::new(Sessions::new(&self.options, opts, (log, epoch), self.process))
            }
        }
    }
}

async fn identity(session: &mut Session) -> Result<Uuid, Error> {
    let rows = session.rows(schema::SERVER).await?;
    let id = rows.first().and_then(|row| row.get::<Vec<u8>, _>(0)).unwrap_or_default();
    Ok(Uuid::from_slice(&id).expect("the column has 16 bytes, and the check has seen its row"))
}

fn holder(row: &Row) -> (u64, Vec<u8>) {
    (row.get(0).unwrap_or_default(), row.get(1).unwrap_or_default())
}

/// Ends the sessions of older epochs and waits until they are gone: what they had begun is rolled
/// back or prepared by then. First they may bring to its end what they decided.
async fn end_older(sessions: &Sessions, session: &mut Session) -> Result<(), Error> {
    if !sessions.others(session).await?.is_empty() {
        tokio::time::sleep(GRACE).await;
    }
    loop {
        let left = sessions.end_others(session).await?;
        if left == 0 {
            return Ok(());
        }
        tracing::info!(sessions = left, "ends sessions of an older epoch");
        tokio::time::sleep(GONE_INTERVAL).await;
    }
}
