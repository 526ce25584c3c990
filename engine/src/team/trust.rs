//! How many helpers a caller uses.
//!
//! A core that is shared with another program can delay a run by a whole time slice, however little
//! work was left on it. After a run in which members waited in vain, the caller uses half of its
//! helpers, or none, for a multiple of that wait, and then more again.

use std::time::Duration;

use tokio::time::Instant;

/// The multiple of the wait for which fewer helpers are used.
const BACKOFF: u32 = 20;
/// The longest time for which fewer helpers are used.
const LONGEST: Duration = Duration::from_secs(2);

/// What a caller has learnt about its helpers.
#[derive(Debug)]
pub(super) struct Trust {
    all: usize,
    asked: usize,
    /// When to use more of them again, and how long the present number is kept.
    doubt: Option<(Instant, Duration)>,
}

impl Trust {
    /// Full trust in `all` helpers.
    pub(super) fn new(all: usize) -> Self {
        Self { all, asked: all, doubt: None }
    }

    /// How many helpers to use, at most `most`.
    pub(super) fn helpers(&mut self, most: usize) -> usize {
        if let Some((until, pause)) = self.doubt
            && Instant::now() >= until
        {
            self.asked = (self.asked * 2).clamp(1, self.all);
            self.doubt = (self.asked < self.all).then(|| (Instant::now() + pause, pause));
        }
        self.asked.min(most)
    }

    /// How many helpers there are.
    pub(super) fn all(&self) -> usize {
        self.all
    }

    /// Records a run with `asked` helpers in which members waited in vain for `stall`.
    pub(super) fn learn(&mut self, asked: usize, stall: Duration) {
        if !stall.is_zero() {
            let pause = (stall * BACKOFF).min(LONGEST);
            self.asked = asked / 2;
            self.doubt = Some((Instant::now() + pause, pause));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{LONGEST, Trust};

    #[tokio::test(start_paused = true)]
    async fn a_wait_in_vain_costs_helpers_for_as_long_as_makes_up_for_it() {
        let mut trust = Trust::new(7);
        assert_eq!([9, 7, 3].map(|most| trust.helpers(most)), [7, 7, 3]);
        trust.learn(7, Duration::ZERO);
        assert_eq!(trust.helpers(7), 7);
        trust.learn(7, Duration::from_millis(3));
        assert_eq!(trust.helpers(7), 3);
        trust.learn(3, Duration::from_millis(3));
        trust.learn(1, Duration::from_millis(3));
        for (wait, helpers) in [(0, 0), (59, 0), (1, 1), (59, 1), (1, 2), (60, 4), (60, 7), (60, 7)]
        {
            tokio::time::advance(Duration::from_millis(wait)).await;
            assert_eq!(trust.helpers(7), helpers, "{wait}");
        }
        trust.learn(7, Duration::from_mins(1));
        tokio::time::advance(LONGEST).await;
        assert_eq!(trust.helpers(7), 6);
    }
}
