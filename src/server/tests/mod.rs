//! Tests of the HTTP interface: parsing by itself, then a real listener before a fake coordinator.

#![allow(clippy::unwrap_used)]

mod batch;
mod fake;
mod http;
mod limits;
mod operator;
mod parsing;
