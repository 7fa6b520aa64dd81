//! The second phase, and what settles doubt: `COMMIT PREPARED`, `ROLLBACK PREPARED`, markers and
//! tombstones.

use std::sync::Arc;

use deadpool_postgres::Client;
use tokio_postgres::error::SqlState;

use super::branch::key;
use super::errors::{is, text};
use super::{Inner, connection, schema};
use crate::participants::{Ack, EndedBelow, Inquiry, Prepared};
use crate::txn::{BranchIndex, Gid};

/// How long a tombstone waits for a branch that has its marker but has not ended. Short: it is
/// tried again, and by then the branch is prepared or gone.
const ENTOMB_LOCK_TIMEOUT: &str = "1s";

/// How a branch ended, by its marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Committed,
    Aborted,
}

pub(super) async fn commit(inner: Arc<Inner>, gid: Gid) -> Ack {
    let ack = match session(&inner).await {
        Ok(client) => commit_on(&client, gid).await,
        Err(detail) => Ack::Unknown(detail),
    };
    inner.give_back(gid, &ack);
    ack
}

async fn commit_on(client: &Client, gid: Gid) -> Ack {
    let error = match client.batch_execute(&format!("COMMIT PREPARED '{gid}'")).await {
        Ok(()) => return Ack::Done,
        Err(error) => error,
    };
    if !is(&error, &SqlState::UNDEFINED_OBJECT) {
        return Ack::Unknown(text(&error));
    }
    match ended(client, gid).await {
        Ok(Some(Ended::Committed)) => Ack::Done,
        Ok(Some(Ended::Aborted)) => Ack::Heuristic("the branch was rolled back".to_owned()),
        Ok(None) => Ack::Heuristic(
            "the database has neither the prepared transaction nor its marker".to_owned(),
        ),
        Err(error) => Ack::Unknown(text(&error)),
    }
}

pub(super) async fn abort(inner: Arc<Inner>, gid: Gid) -> Ack {
    let ack = match inner.let_go(gid).await {
        Some(ack) => ack,
        None => match session(&inner).await {
            Ok(client) => abort_on(&client, gid).await,
            Err(detail) => Ack::Unknown(detail),
        },
    };
    inner.give_back(gid, &ack);
    ack
}

async fn abort_on(client: &Client, gid: Gid) -> Ack {
    match client.batch_execute(&format!("ROLLBACK PREPARED '{gid}'")).await {
        Ok(()) => return Ack::Done,
        Err(error) if is(&error, &SqlState::UNDEFINED_OBJECT) => {}
        Err(error) => return Ack::Unknown(text(&error)),
    }
    match entomb(client, gid).await {
        Ok(Ended::Aborted) => Ack::Done,
        Ok(Ended::Committed) => Ack::Heuristic("the branch was committed".to_owned()),
        Err(detail) => Ack::Unknown(detail),
    }
}

pub(super) async fn inquire(inner: Arc<Inner>, gid: Gid) -> Inquiry {
    let client = match session(&inner).await {
        Ok(client) => client,
        Err(detail) => return Inquiry::Unknown(detail),
    };
    match entomb(&client, gid).await {
        Ok(Ended::Committed) => Inquiry::Committed,
        Ok(Ended::Aborted) => Inquiry::Aborted,
        Err(detail) => Inquiry::Unknown(detail),
    }
}

/// Leaves a tombstone unless the branch has ended, and answers how it did.
async fn entomb(client: &Client, gid: Gid) -> Result<Ended, String> {
    let (epoch, physical, branch) = key(gid);
    let told = async {
        let begin = format!("BEGIN; SET LOCAL lock_timeout = '{ENTOMB_LOCK_TIMEOUT}'");
        client.batch_execute(&begin).await?;
        let statement = client.prepare_cached(schema::ENTOMB).await?;
        client.execute(&statement, &[&gid.log.0, &epoch, &physical, &branch]).await?;
        client.batch_execute("COMMIT").await?;
        ended(client, gid).await
    };
    match told.await {
        Ok(Some(ended)) => Ok(ended),
        Ok(None) => Err("the tombstone is gone".to_owned()),
        Err(error) => {
            // Leaves the session as it was found, unless it has ended.
            let _ = client.batch_execute("ROLLBACK").await;
            Err(text(&error))
        }
    }
}

async fn ended(client: &Client, gid: Gid) -> Result<Option<Ended>, tokio_postgres::Error> {
    let (epoch, physical, branch) = key(gid);
    let statement = client.prepare_cached(schema::ENDED).await?;
    let row = client.query_opt(&statement, &[&gid.log.0, &epoch, &physical, &branch]).await?;
    Ok(row.map(|row| if row.get(0) { Ended::Committed } else { Ended::Aborted }))
}

async fn session(inner: &Inner) -> Result<Client, String> {
    connection::session(&inner.claimed()?.pool).await
}

impl Inner {
    /// The prepared transaction is gone: another may have its place.
    fn give_back(&self, gid: Gid, ack: &Ack) {
        if !matches!(ack, Ack::Unknown(_)) {
            self.slots_held.lock().expect("no panic while held").remove(&gid);
        }
    }

    /// Removes markers and tombstones of what has ended, some time after: a prepare that comes
    /// late still finds its tombstone.
    pub(super) async fn prune(&self, ended: EndedBelow) -> Result<u64, String> {
        let client = session(self).await?;
        let (epoch, physical, _) = key(Gid {
            log: ended.log,
            epoch: ended.epoch,
            physical: ended.physical,
            branch: BranchIndex(0),
        });
        // Longer than any statement of ours may take.
        let age_s = self.options.listening_horizon.as_secs_f64() * 10.0;
        let removed =
            client.execute(schema::PRUNE, &[&ended.log.0, &epoch, &physical, &age_s]).await;
        removed.map_err(|error| text(&error))
    }

    pub(super) async fn list_prepared(&self) -> Result<Prepared, String> {
        let client = session(self).await?;
        let rows = client.query(schema::PREPARED, &[]).await.map_err(|error| text(&error))?;
        let mut prepared = Prepared::default();
        for row in rows {
            let gid: String = row.get(0);
            match gid.parse() {
                Ok(gid) => prepared.branches.push(gid),
                Err(_) => prepared.others.push(gid),
            }
        }
        Ok(prepared)
    }
}
