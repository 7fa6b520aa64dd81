//! Claims about features that hold for any history.
#![allow(clippy::unwrap_used)]

mod definitions;
mod histories;
mod properties;
mod windows;
