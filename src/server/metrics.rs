//! What operators watch, in Prometheus' text form, base units.
//!
//! Counters of transactions are the coordinator's own and are read when scraped, so that they
//! also count what no client waited for. Latencies are those of answers that were given here.

use std::sync::{Mutex, PoisonError};

use metrics::{Counter, Gauge, Histogram, Label, Level, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::coordinator::{Doubts, Timings};

use super::backend::{Reading, StoreReading};

/// Upper bounds of latency buckets in seconds: 100 µs to 30 s, three a decade.
const LATENCY_BUCKETS: &[f64] = &[
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    10.0, 30.0,
];

const METADATA: Metadata<'static> = Metadata::new("presume", Level::INFO, Some("presume"));

/// The text that a gauge's label shows.
type Shown = Mutex<Option<String>>;

/// One server's metrics.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    predict: Histogram,
    prepare: Histogram,
    commit: Histogram,
    total: Histogram,
    connections: Gauge,
    connections_refused: Counter,
    timeouts: Counter,
    model: Shown,
    mode: Shown,
}

impl Metrics {
    /// Registers every metric that has no labels.
    pub fn new() -> Self {
        let builder =
            PrometheusBuilder::new().set_buckets(LATENCY_BUCKETS).expect("the list is not empty");
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        describe(&recorder);
        let histogram = |name: &'static str| recorder.register_histogram(&key(name, []), &METADATA);
        Self {
            predict: histogram("presume_predict_seconds"),
            prepare: histogram("presume_prepare_seconds"),
            commit: histogram("presume_commit_seconds"),
            total: histogram("presume_transaction_seconds"),
            connections: recorder.register_gauge(&key("presume_connections", []), &METADATA),
            connections_refused: recorder
                .register_counter(&key("presume_connections_refused_total", []), &METADATA),
            timeouts: recorder
                .register_counter(&key("presume_http_answered_later_total", []), &METADATA),
            model: Shown::default(),
            mode: Shown::default(),
            recorder,
            handle,
        }
    }

    /// Counts the parts of one answer's time.
    pub fn answered(&self, timings: &Timings) {
        self.predict.record(timings.predict / 1e3);
        self.prepare.record(timings.prepare / 1e3);
        self.commit.record(timings.commit / 1e3);
        self.total.record(timings.total / 1e3);
    }

    /// Counts a request by route, method and status.
    pub fn request(&self, path: &str, method: &str, status: u16) {
        let labels = [
            Label::new("path", path.to_owned()),
            Label::new("method", method.to_owned()),
            Label::new("status", status.to_string()),
        ];
        self.counter("presume_http_requests_total", labels).increment(1);
    }

    /// Counts a refusal by its problem's code.
    pub fn refused(&self, code: &str) {
        let labels = [Label::new("code", code.to_owned())];
        self.counter("presume_http_refused_total", labels).increment(1);
    }

    /// Counts a request that was answered 202 because its transaction takes longer.
    pub fn answered_later(&self) {
        self.timeouts.increment(1);
    }

    /// Shows how many connections are open.
    pub fn connections(&self, open: usize) {
        self.connections.set(open as f64);
    }

    /// Counts a connection over the limit.
    pub fn connection_refused(&self) {
        self.connections_refused.increment(1);
    }

    /// Shows whether transactions are taken.
    pub fn ready(&self, ready: bool) {
        self.gauge("presume_ready", []).set(if ready { 1.0 } else { 0.0 });
    }

    /// Takes over the readings and renders everything.
    pub fn render(&self, reading: &Reading, doubts: &Doubts, stores: &[StoreReading]) -> String {
        self.take_over(reading, stores);
        self.take_over_doubts(doubts);
        self.handle.render()
    }

    fn take_over_doubts(&self, doubts: &Doubts) {
        self.gauge("presume_transactions_in_doubt", []).set(doubts.count as f64);
        self.gauge("presume_transactions_in_doubt_oldest_seconds", []).set(doubts.oldest_s);
        self.counter("presume_branches_resolved_total", []).absolute(doubts.resolved);
        self.counter("presume_transaction_age_alerts_total", []).absolute(doubts.age_alerts);
    }

    /// Folds recorded samples into buckets; without it they pile up between scrapes.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    fn take_over(&self, reading: &Reading, stores: &[StoreReading]) {
        self.gauge("presume_transactions_in_flight", []).set(reading.in_flight as f64);
        self.gauge("presume_transactions_unfinished", []).set(reading.unfinished as f64);
        for (outcome, count) in &reading.outcomes {
            let labels = [Label::new("outcome", outcome.clone())];
            self.counter("presume_transactions_total", labels).absolute(*count);
        }
        for (reason, count) in &reading.reasons {
            let labels = [Label::new("reason", reason.clone())];
            self.counter("presume_transaction_reasons_total", labels).absolute(*count);
        }
        for (target, cause, count) in &reading.fallbacks {
            let labels = [Label::new("target", target.clone()), Label::new("cause", cause.clone())];
            self.counter("presume_model_fallbacks_total", labels).absolute(*count);
        }
        for store in stores {
            let labels = || [Label::new("store", store.store.clone())];
            self.counter("presume_store_flushes_total", labels()).absolute(store.flushes);
            self.counter("presume_store_writes_total", labels()).absolute(store.writes);
            let healthy = if store.healthy { 1.0 } else { 0.0 };
            self.gauge("presume_store_healthy", labels()).set(healthy);
        }
        let travelled = reading.travelled;
        self.counter("presume_batches_total", []).absolute(travelled.batches);
        self.counter("presume_batch_members_total", []).absolute(travelled.members);
        self.counter("presume_batches_retried_total", []).absolute(travelled.retried);
        self.gauge("presume_transactions_waiting", []).set(travelled.waiting as f64);
        let foreign = reading.foreign_branches as f64;
        self.gauge("presume_foreign_branches", []).set(foreign);
        self.show("presume_model_info", "version", &self.model, &reading.model);
        self.show("presume_mode_info", "mode", &self.mode, &reading.mode);
    }

    /// Shows a text as a label of a gauge that is 1, and ends the series of the text before.
    fn show(&self, name: &'static str, label: &'static str, shown: &Shown, text: &str) {
        let series = |text: &str| self.gauge(name, [Label::new(label, text.to_owned())]);
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = shown.as_deref().filter(|old| *old != text) {
            series(old).set(0.0);
        }
        series(text).set(1.0);
        *shown = Some(text.to_owned());
    }

    fn counter<const N: usize>(&self, name: &'static str, labels: [Label; N]) -> Counter {
        self.recorder.register_counter(&key(name, labels), &METADATA)
    }

    fn gauge<const N: usize>(&self, name: &'static str, labels: [Label; N]) -> Gauge {
        self.recorder.register_gauge(&key(name, labels), &METADATA)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn key<const N: usize>(name: &'static str, labels: [Label; N]) -> metrics::Key {
    metrics::Key::from_parts(name, Vec::from(labels))
}

fn describe(recorder: &PrometheusRecorder) {
    let text = |help: &'static str| SharedString::const_str(help);
    for (name, help) in [
        ("presume_transactions_total", "transactions finished, by outcome"),
        ("presume_transaction_reasons_total", "reasons given for outcomes"),
        ("presume_branches_resolved_total", "branches ended by an operator's word"),
        ("presume_transaction_age_alerts_total", "transactions that stayed unresolved too long"),
        ("presume_http_requests_total", "requests by route, method and status"),
        ("presume_http_refused_total", "refused requests by problem code"),
        ("presume_http_answered_later_total", "requests answered 202 while still running"),
        ("presume_connections_refused_total", "connections over the limit"),
        ("presume_model_fallbacks_total", "predictions that rules made, by target and cause"),
        ("presume_batches_total", "batches of transactions that travelled together"),
        ("presume_batch_members_total", "their members"),
        ("presume_batches_retried_total", "batches that were taken back and tried again"),
        ("presume_store_flushes_total", "flushes to disk by store"),
        ("presume_store_writes_total", "writes made durable by store"),
    ] {
        recorder.describe_counter(name.into(), Some(Unit::Count), text(help));
    }
    for (name, help) in [
        ("presume_transactions_in_flight", "transactions that run now"),
        ("presume_transactions_waiting", "transactions that wait for others on their way"),
        ("presume_transactions_in_doubt", "transactions past their first phase, not settled"),
        ("presume_transactions_in_doubt_oldest_seconds", "age of the oldest of them"),
        ("presume_connections", "open connections"),
        ("presume_ready", "1 while transactions are taken"),
        ("presume_model_info", "1 for the bundle that serves"),
        ("presume_transactions_unfinished", "transactions not applied everywhere yet"),
        ("presume_mode_info", "1 for policy's mode"),
        ("presume_foreign_branches", "prepared branches of other decision logs, found at start"),
        ("presume_store_healthy", "1 while the store takes writes"),
    ] {
        recorder.describe_gauge(name.into(), None, text(help));
    }
    for (name, help) in [
        ("presume_predict_seconds", "features, predictions and plan"),
        ("presume_prepare_seconds", "until the last vote"),
        ("presume_commit_seconds", "until the outcome was durable"),
        ("presume_transaction_seconds", "from submission to answer"),
    ] {
        recorder.describe_histogram(name.into(), Some(Unit::Seconds), text(help));
    }
}
