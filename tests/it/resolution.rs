//! How long after a restart branches of earlier epochs stand prepared, seen from the databases.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use tokio::sync::watch;

use crate::banks::Banks;

/// How often it is looked: the accuracy of what is measured.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Looks at two servers from a restart on.
pub struct Resolution {
    stop: watch::Sender<bool>,
    looking: tokio::task::JoinHandle<Seen>,
}

/// What was seen of branches of earlier epochs.
#[derive(Debug, Default)]
struct Seen {
    /// Whether there were any.
    any: bool,
    /// When the last of them was seen, after the restart.
    last: Duration,
    /// Whether the last look still saw some.
    left: bool,
}

impl Resolution {
    /// Looks from now on, just before the start that makes the epoch after these `starts`.
    pub fn watch(banks: &Banks, starts: usize) -> Option<Self> {
        let Banks::Pair(pair) = banks else { return None };
        let urls = (pair.postgres.url("left"), pair.mysql.url());
        let (stop, stopped) = watch::channel(false);
        let looking = tokio::spawn(look(urls, starts as u64 + 1, stopped));
        Some(Self { stop, looking })
    }
}

/// The worst over many restarts.
#[derive(Debug, Default)]
pub struct Worst {
    times: Vec<Duration>,
    unresolved_at_the_next_kill: usize,
}

impl Worst {
    pub async fn take(&mut self, resolution: Option<Resolution>) {
        let Some(resolution) = resolution else { return };
        resolution.stop.send_replace(true);
        let seen = resolution.looking.await.unwrap();
        if seen.left {
            self.unresolved_at_the_next_kill += 1;
        } else if seen.any {
            self.times.push(seen.last);
        }
    }

    pub fn print(&mut self, kills: usize) {
        self.times.sort_unstable();
        let Some(worst) = self.times.last() else { return };
        let median = self.times[self.times.len() / 2];
        let (restarts, left) = (self.times.len(), self.unresolved_at_the_next_kill);
        println!(
            "{restarts} of {kills} kills left branches in doubt; resolved after their restart: \
             worst {worst:?}, median {median:?}; {left} more were killed before"
        );
    }
}

async fn look(urls: (String, String), epoch: u64, stopped: watch::Receiver<bool>) -> Seen {
    let started = Instant::now();
    let mut seen = Seen::default();
    let (mut left, mut right) = (None, None);
    loop {
        let stopping = *stopped.borrow();
        let at = started.elapsed();
        // A server may be without power.
        let epochs = epochs(&urls, &mut left, &mut right).await;
        if let Some(epochs) = epochs {
            seen.left = epochs.iter().any(|found| *found < epoch);
            if seen.left {
                (seen.any, seen.last) = (true, at);
            }
        }
        if stopping {
            return seen;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

type Left = Option<tokio_postgres::Client>;
type Right = Option<mysql_async::Conn>;

/// The epochs of all branches that stand prepared; `None` if one of the two cannot be asked.
async fn epochs(urls: &(String, String), left: &mut Left, right: &mut Right) -> Option<Vec<u64>> {
    let mut epochs = Vec::new();
    if left.as_ref().is_none_or(tokio_postgres::Client::is_closed) {
        let connected = tokio_postgres::connect(&urls.0, tokio_postgres::NoTls).await;
        let (client, connection) = connected.ok()?;
        tokio::spawn(connection);
        *left = Some(client);
    }
    let client = left.as_ref()?;
    for row in client.query("SELECT gid FROM pg_prepared_xacts", &[]).await.ok()? {
        let gid: String = row.get(0);
        epochs.push(gid.split(':').nth(2).unwrap().parse().unwrap());
    }
    if right.is_none() {
        *right = mysql_async::Conn::from_url(&urls.1).await.ok();
    }
    let listed: Result<Vec<(i64, usize, usize, String)>, _> =
        right.as_mut()?.query("XA RECOVER").await;
    let Ok(listed) = listed else {
        *right = None;
        return None;
    };
    for (_, _, _, xid) in listed {
        epochs.push(u64::from_str_radix(&xid[32..48], 16).unwrap());
    }
    Some(epochs)
}
