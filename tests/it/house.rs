//! A served coordinator over one `PostgreSQL` and one `MariaDB`, each behind a proxy.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::load::{Transfer, submit};
use crate::pair::{Pair, SETTLED_MAX, Side, Travel, configuration, eventually};
use crate::proxy::Proxy;
use crate::server::Served;

pub const ACCOUNTS: usize = 100;
pub const OPENING: i64 = 1_000;

pub struct House {
    pub pair: Pair,
    pub proxies: [Proxy; 2],
    pub client: reqwest::Client,
    served: Option<Served>,
    scratch: tempfile::TempDir,
}

impl House {
    /// Started, with more keys of the section `coordinator`; `None` where a server is missing.
    pub async fn open(coordinator: &str) -> Option<Self> {
        let mut house = Self::build(coordinator, |sections| sections).await?;
        house.start();
        Some(house)
    }

    /// Not started yet, with other sections of participants.
    pub async fn build(coordinator: &str, change: impl FnOnce(String) -> String) -> Option<Self> {
        Some(Self::around(Pair::start(ACCOUNTS, OPENING)?, coordinator, change).await)
    }

    /// Not started yet, and transfers share batches; with other sections of participants.
    pub async fn together(change: impl FnOnce(String) -> String) -> Option<Self> {
        let pair = Pair::start(ACCOUNTS, OPENING)?;
        Some(Self::before(pair, "", Travel::Together, change).await)
    }

    /// The same around servers that are there.
    pub async fn around(
        pair: Pair,
        coordinator: &str,
        change: impl FnOnce(String) -> String,
    ) -> Self {
        Self::before(pair, coordinator, Travel::Alone, change).await
    }

    async fn before(
        pair: Pair,
        coordinator: &str,
        travel: Travel,
        change: impl FnOnce(String) -> String,
    ) -> Self {
        let left = Proxy::before(pair.postgres.port()).await;
        let right = Proxy::before(pair.mysql.port()).await;
        let scratch = tempfile::tempdir().unwrap();
        let sections = change(pair.sections_behind([left.port(), right.port()], travel));
        configuration(scratch.path(), coordinator, &sections);
        let client = reqwest::Client::new();
        Self { pair, proxies: [left, right], client, served: None, scratch }
    }

    /// Where the configuration, the log and the folder `data` stand.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    pub fn start(&mut self) {
        self.served = Some(Served::start(self.folder(), &[]));
    }

    pub fn served(&self) -> &Served {
        self.served.as_ref().unwrap()
    }

    pub fn kill(&mut self) {
        self.served.take().unwrap().kill();
    }

    pub fn stop(&mut self) {
        self.served.take().unwrap().stop();
    }

    pub fn proxy(&self, side: Side) -> &Proxy {
        &self.proxies[side as usize]
    }

    /// Submits until there is a certain answer.
    pub async fn answer(&self, transfer: &Transfer) -> Value {
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < SETTLED_MAX * 2, "no answer: {:?}", transfer.body());
            if let Some(answer) = submit(&self.client, &self.served().url, transfer).await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Submits once: status, whether it says when to come again, body.
    pub async fn submit(&self, transfer: &Transfer) -> (u16, bool, Value) {
        let request = self
            .client
            .post(format!("{}/v1/transactions", self.served().url))
            .header("Idempotency-Key", &transfer.id)
            .json(&transfer.body());
        let response = request.send().await.unwrap();
        let again = response.headers().contains_key("retry-after");
        (response.status().as_u16(), again, response.json().await.unwrap())
    }

    pub async fn get(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.served().url);
        self.client.get(url).send().await.unwrap().json().await.unwrap()
    }

    /// How the coordinator sees one of the two.
    pub async fn participant(&self, side: Side) -> Value {
        let all = self.get("/v1/participants").await;
        let all = all["participants"].as_array().unwrap();
        all.iter().find(|one| one["name"] == side.name()).unwrap().clone()
    }

    /// Waits until it takes transactions.
    pub async fn ready(&self, side: Side) {
        loop {
            let seen = self.participant(side).await;
            if seen["away"].is_null() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Transfers until one is committed, and applied: sessions work again, and none is busy.
    pub async fn works(&self) {
        for n in 0.. {
            let id = format!("works-{}-{n}", uuid::Uuid::new_v4().simple());
            if self.answer(&across(&id, ACCOUNTS - 1, 1)).await["outcome"] == "committed" {
                return self.settled("it works").await;
            }
        }
    }

    /// A number of `/metrics`.
    pub async fn metric(&self, name: &str) -> u64 {
        self.served().metric(name).await
    }

    /// How many transactions are not applied everywhere.
    pub async fn unfinished(&self) -> u64 {
        self.metric("presume_transactions_unfinished").await
    }

    /// Waits until every transaction is applied everywhere, and nothing stands prepared.
    pub async fn settled(&self, what: &str) {
        let started = Instant::now();
        while self.unfinished().await > 0 {
            assert!(started.elapsed() < SETTLED_MAX, "unfinished within {SETTLED_MAX:?}: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.pair.settled(what).await;
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("serve.log")).unwrap()
    }

    pub async fn logged(&self, text: &str) {
        eventually(text, || self.log().contains(text)).await;
    }

    /// What a transfer of one between the same account of both must have done by its answer.
    pub fn assert_moved(&self, account: usize, moved: i64, what: &str) {
        let left = self.pair.balance(Side::Left, account) - OPENING;
        let right = self.pair.balance(Side::Right, account) - OPENING;
        assert_eq!((left, right), (-moved, moved), "{what}");
    }
}

/// From left to right, between the same account of both.
pub fn across(id: &str, account: usize, amount: i64) -> Transfer {
    let legs = vec![("left", account, -amount), ("right", account, amount)];
    Transfer { id: id.to_owned(), legs }
}

/// Within one participant: it commits in one phase.
pub fn within(id: &str, side: Side, account: usize, amount: i64) -> Transfer {
    Transfer { id: id.to_owned(), legs: vec![(side.name(), account, amount)] }
}
