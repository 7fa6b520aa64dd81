//! Predictors, calibration, bundles, registry, serving.
