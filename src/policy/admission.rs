//! The cap on the rejected share.

/// Rejections that the cap allows at once, so that a cluster of fraud is not let through.
const BURST: f64 = 20.0;

/// A token bucket counted in transactions, not in time: each one seen earns `share` of a
/// rejection, at most [`BURST`] are saved up, and a rejection costs one.
#[derive(Debug, Clone)]
pub(super) struct RejectedShare {
    share: f64,
    tokens: f64,
}

impl RejectedShare {
    pub(super) fn new(share: f64) -> Self {
        // A cap of zero rejects nothing, not even a first burst.
        let tokens = if share > 0.0 { BURST } else { 0.0 };
        Self { share, tokens }
    }

    pub(super) fn count(&mut self) {
        self.tokens = (self.tokens + self.share).min(BURST);
    }

    pub(super) fn take(&mut self) -> bool {
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}
