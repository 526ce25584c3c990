//! A worker's CPU quota, as the kernel enforces it.
//!
//! Every period, the group gets its quota; it cannot save up more than one. The kernel checks
//! whether the quota is used up only at a timer tick, or when the group resumes work. So a
//! computation runs on until the next tick, and the group then pays its debt by pausing for as many
//! periods as that takes (Turner, Rao and Rao, "CPU bandwidth control for CFS", 2010).

use std::time::Duration;

use super::clock::{Nanos, nanos_of};

/// A limit on CPU time per period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// CPU time per period.
    pub quota: Duration,
    /// Length of a period.
    pub period: Duration,
    /// Time between two ticks of the kernel's timer.
    pub tick: Duration,
}

impl Quota {
    /// The share of one CPU.
    pub fn share(&self) -> f64 {
        self.quota.as_secs_f64() / self.period.as_secs_f64()
    }
}

/// The quota of one worker, and how much of it is left.
#[derive(Debug)]
pub(crate) struct Meter {
    quota: i64,
    period: Nanos,
    tick: Nanos,
    /// Position of time 0 within a period and within a tick; differs between workers.
    period_phase: Nanos,
    tick_phase: Nanos,
    budget: i64,
    /// Periods that have been credited.
    credited: Nanos,
}

impl Meter {
    /// A full quota; `seed` spreads the phases.
    pub(crate) fn new(quota: Quota, seed: u64) -> Self {
        let (period, tick) = (nanos_of(quota.period).max(1), nanos_of(quota.tick).max(1));
        let spread = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let amount = i64::try_from(nanos_of(quota.quota)).unwrap_or(i64::MAX).max(1);
        Self {
            quota: amount,
            period,
            tick,
            period_phase: spread % period,
            tick_phase: (spread >> 20) % tick,
            budget: amount,
            credited: 0,
        }
    }

    /// When a computation of `cpu` that begins at `start` is done.
    pub(crate) fn finish(&mut self, start: Nanos, cpu: Nanos) -> Nanos {
        let (mut now, mut left) = (start, cpu);
        self.credit(now);
        now = self.wait(now);
        while left > 0 {
            let next_tick = (now + self.tick_phase) / self.tick * self.tick + self.tick;
            let stop = (now + left).min(next_tick - self.tick_phase);
            let ran = stop - now;
            left -= ran;
            self.budget -= i64::try_from(ran).unwrap_or(i64::MAX);
            now = stop;
            self.credit(now);
            if left > 0 {
                now = self.wait(now);
            }
        }
        now
    }

    /// Pauses while there is a debt; returns when work can continue.
    fn wait(&mut self, mut now: Nanos) -> Nanos {
        while self.budget <= 0 {
            now = (now + self.period_phase) / self.period * self.period + self.period
                - self.period_phase;
            self.credit(now);
        }
        now
    }

    /// Adds the quotas of the periods that have begun up to `now`.
    fn credit(&mut self, now: Nanos) {
        let begun = (now + self.period_phase) / self.period;
        let periods = i64::try_from(begun - self.credited).unwrap_or(i64::MAX);
        self.credited = begun;
        self.budget =
            self.budget.saturating_add(self.quota.saturating_mul(periods)).min(self.quota);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quota(quota: u64, period: u64, tick: u64) -> Quota {
        let micros = Duration::from_micros;
        Quota { quota: micros(quota), period: micros(period), tick: micros(tick) }
    }

    #[test]
    fn what_fits_into_the_quota_is_not_slowed() {
        let mut meter = Meter::new(quota(2500, 10_000, 4000), 0);
        assert_eq!(meter.finish(1000, 2_000_000), 2_001_000);
        assert_eq!(meter.finish(500_000_000, 2_000_000), 502_000_000);
    }

    #[test]
    fn a_debt_is_paid_by_standing_still() {
        // Runs 4 ms to the first tick: 3 ms of debt at a quota of 1 ms in 4 ms.
        let mut meter = Meter::new(quota(1000, 4000, 4000), 0);
        // Credited at 4 ms (debt 2), 8, 12, and at 16 ms there is 1 ms again.
        assert_eq!(meter.finish(0, 5_000_000), 17_000_000);
    }

    proptest! {
        #[test]
        fn in_the_long_run_a_busy_group_gets_its_share_and_no_more(
            (share, period, tick) in (5_u64..95, 1000_u64..20_000, 500_u64..5000),
            (cpu, seed) in (100_u64..30_000, any::<u64>()),
        ) {
            let quota = quota(period * share / 100, period, tick);
            let mut meter = Meter::new(quota, seed);
            let (jobs, mut now) = (2_000_000 / cpu, 0);
            for _ in 0..jobs {
                let done = meter.finish(now, cpu * 1000);
                prop_assert!(done >= now + cpu * 1000);
                now = done;
            }
            let found = (jobs * cpu) as f64 * 1e-6 / (now as f64 * 1e-9);
            prop_assert!((found / quota.share() - 1.0).abs() < 0.03, "{found} of {}", quota.share());
        }
    }
}
