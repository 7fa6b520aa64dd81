//! Sans-IO commit protocol engines.
