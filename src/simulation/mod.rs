//! Worlds, and histories generated from them.
