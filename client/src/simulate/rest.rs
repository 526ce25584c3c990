//! What a worker saves on the first request after a rest.
//!
//! A worker with a CPU quota that was idle for a moment has some of it left, and answers the next
//! request sooner than one that goes from request to request. The saving belongs neither to the
//! request nor to the moment but to the subject of the simulation: whether a worker was busy. It is
//! therefore added to the costs of a measured run, and subtracted where a simulated worker rests.
//! It is the mean over requests after rests of about the same length, and a longer rest saves no
//! less (Ayer et al., "An empirical distribution function for sampling with incomplete
//! information", 1955).

use std::sync::Arc;

/// Fewer requests than this say nothing about a length of rest.
const FEWEST: usize = 30;
/// Number of lengths that are distinguished.
const LENGTHS: usize = 24;
/// Fewer than one in a thousand differences due to chance exceed this many standard errors.
const ERRORS: f64 = 3.3;
/// No rest saves more than this share of a request.
const MOST: f64 = 0.95;

/// A request of a measured run: how long its worker had rested, and what it cost above the usual.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rested {
    /// Seconds; `None` if the request had to wait for its worker.
    pub(crate) rest: Option<f64>,
    /// Seconds more than usual for such a request, or less.
    pub(crate) excess: f64,
}

/// What a request saves after a rest, by the length of the rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Rest {
    steps: Arc<[Step]>,
}

/// A rest of this length or longer, up to that of the next step.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    rest: f64,
    /// Seconds saved.
    gain: f64,
}

impl Rest {
    /// Estimated from these requests; `None` if rests save nothing or there are too few.
    pub(crate) fn of(seen: &[Rested]) -> Option<Self> {
        let waited: Vec<f64> =
            seen.iter().filter(|it| it.rest.is_none()).map(|it| it.excess).collect();
        let mut rested: Vec<(f64, f64)> =
            seen.iter().filter_map(|it| Some((it.rest?, it.excess))).collect();
        if waited.len() < FEWEST || rested.len() < FEWEST {
            return None;
        }
        rested.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
        let (at_work, error_at_work) = mean_and_error(waited.iter().copied());
        let (after, error_after) = mean_and_error(rested.iter().map(|it| it.1));
        if at_work - after <= ERRORS * error_at_work.hypot(error_after) {
            return None;
        }
        let size = (rested.len() / LENGTHS).max(FEWEST);
        let mut blocks: Vec<Block> = Vec::new();
        for requests in rested.chunks(size) {
            let sum: f64 = requests.iter().map(|it| at_work - it.1).sum();
            blocks.push(Block { rest: requests[0].0, sum, count: requests.len() as f64 });
            // Merge blocks in which a longer rest would save less.
            while let [.., one, other] = &blocks[..] {
                if one.mean() < other.mean() {
                    break;
                }
                let joined = Block {
                    rest: one.rest,
                    sum: one.sum + other.sum,
                    count: one.count + other.count,
                };
                blocks.truncate(blocks.len() - 2);
                blocks.push(joined);
            }
        }
        let step = |it: &Block| Step { rest: it.rest, gain: it.mean().max(0.0) };
        Some(Self { steps: blocks.iter().map(step).collect() })
    }

    /// Seconds that a request saves after a rest of `rest` seconds.
    pub(crate) fn gain(&self, rest: f64) -> f64 {
        let after = self.steps.partition_point(|step| step.rest <= rest);
        after.checked_sub(1).map_or(0.0, |last| self.steps[last].gain)
    }

    /// What remains of a cost of `seconds` after a rest.
    pub(crate) fn shortened(&self, seconds: f64, rest: f64) -> f64 {
        seconds - self.gain(rest).min(MOST * seconds)
    }
}

/// Requests after rests of about the same length.
#[derive(Debug, Clone, Copy)]
struct Block {
    rest: f64,
    sum: f64,
    count: f64,
}

impl Block {
    fn mean(&self) -> f64 {
        self.sum / self.count
    }
}

/// The mean and its standard error.
fn mean_and_error(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count;
    let squares: f64 = values.map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0) / count).sqrt())
}

#[cfg(test)]
mod tests {
    use rand::rngs::ChaCha12Rng;
    use rand::{RngExt, SeedableRng};

    use super::{Rest, Rested};

    /// Requests of which half come after a rest of up to 100 ms; `gain` is what one saves.
    fn seen(count: usize, gain: fn(f64) -> f64) -> Vec<Rested> {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let mut one = || {
            let rest = rng.random_bool(0.5).then(|| rng.random_range(0.0..0.1));
            let noise = rng.random_range(-0.01..0.01);
            Rested { rest, excess: noise - rest.map_or(0.0, gain) }
        };
        (0..count).map(|_| one()).collect()
    }

    #[test]
    fn what_a_rest_saves_is_found_by_its_length() {
        let saved = |rest: f64| (rest / 0.01).min(1.0) * 0.02;
        let found = Rest::of(&seen(20_000, saved)).expect("a difference");
        for rest in [0.0, 0.02, 0.05, 0.2] {
            let (found, expected) = (found.gain(rest), saved(rest));
            assert!((found - expected).abs() < 0.008, "{rest}: {found}, {expected}");
        }
        assert!(found.gain(-0.01).abs() < 1e-12);
        let gains: Vec<f64> = (0..100).map(|at| found.gain(f64::from(at) * 1e-3)).collect();
        assert!(gains.is_sorted(), "{gains:?}");
        assert!((found.shortened(0.1, 0.05) - 0.08).abs() < 0.002);
        assert!(found.shortened(1e-3, 0.05) > 0.0, "nothing takes no time");
    }

    #[test]
    fn chance_few_requests_and_rests_that_cost_are_nothing_saved() {
        assert_eq!(Rest::of(&seen(20_000, |_| 0.0)), None);
        assert_eq!(Rest::of(&seen(40, |_| 0.02)), None);
        assert_eq!(Rest::of(&seen(20_000, |_| -0.005)), None);
        assert_eq!(Rest::of(&[]), None);
    }
}
