//! A value that tasks wait for, woken in the order in which they began to wait.
//!
//! tokio's `watch` wakes its receivers in a random order, which no simulation could repeat.

use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(super) struct Watched<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T> Watched<T> {
    pub(super) fn new(value: T) -> Self {
        Self { value: Mutex::new(value), changed: Notify::new() }
    }

    fn value(&self) -> MutexGuard<'_, T> {
        self.value.lock().expect("no panic while held")
    }

    pub(super) fn set(&self, value: T) {
        *self.value() = value;
        self.changed.notify_waiters();
    }

    pub(super) fn get(&self) -> T
    where
        T: Clone,
    {
        self.value().clone()
    }

    /// Waits until the value is as wished.
    pub(super) async fn until(&self, wished: impl Fn(&T) -> bool) {
        loop {
            // Asked for before the look, so that no change is missed between the two.
            let changed = self.changed.notified();
            if wished(&self.value()) {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn waiters_are_woken_in_the_order_in_which_they_came() {
        let (watched, woken) = (Arc::new(Watched::new(false)), Arc::new(Mutex::new(Vec::new())));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..20 {
            let (watched, woken) = (watched.clone(), woken.clone());
            tasks.spawn(async move {
                watched.until(|value| *value).await;
                woken.lock().unwrap().push(number);
            });
        }
        tokio::task::yield_now().await;
        watched.set(true);
        watched.until(|value| *value).await;
        tasks.join_all().await;
        assert_eq!(*woken.lock().unwrap(), (0..20).collect::<Vec<_>>());
    }
}
