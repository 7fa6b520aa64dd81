//! One extractor, the same online and offline, and its bounded state.
