//! HTTP interface and metrics.
