//! Exponential back-off with jitter.

use std::time::Duration;

/// Delays that double from `first` to `cap`, each with up to ten per cent of jitter.
///
/// The jitter keeps loops that failed together from retrying together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// A back-off whose first delay is `first` and whose longest is `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            next: first,
        }
    }

    /// The delay to wait now; the one after it is twice as long.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next.min(self.cap);
        self.next = delay.saturating_mul(2).min(self.cap);
        delay.mul_f64(1.0 + 0.1 * fastrand::f64())
    }

    /// Starts over at the first delay, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for at_least in [100, 200, 350, 350] {
            let delay = backoff.next_delay().as_secs_f64() * 1000.0;
            let at_least = f64::from(at_least);
            assert!(
                delay >= at_least && delay <= at_least * 1.1 + 0.1,
                "{delay} for {at_least}"
            );
        }
        backoff.reset();
        assert!(backoff.next_delay() < Duration::from_millis(120));
    }
}
