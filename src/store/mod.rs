//! One durable key-value store behind one writer thread.
