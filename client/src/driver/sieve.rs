//! Which samples are kept one by one when there are more than are wanted: each has the same chance.
//!
//! Every request has a rank that follows from its number and is as good as random; the samples with
//! the smallest ranks are kept (Cohen and Kaplan, "Summarizing Data Using Bottom-k Sketches",
//! 2007). The kept samples are therefore spread over the run, its threads and its requests,
//! whatever their rhythm, and are the same for the same arrivals. Counts and quantiles of a run
//! always come from all of its requests.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::num::NonZeroU64;

use crate::sample::Sample;

/// Samples with the smallest ranks.
#[derive(Debug, Default)]
pub(crate) struct Sieve {
    most: usize,
    /// Samples with a larger rank are not kept.
    below: u64,
    kept: BinaryHeap<Kept>,
}

#[derive(Debug)]
struct Kept {
    rank: u64,
    sample: Sample,
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl Eq for Kept {}

impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Kept {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank.cmp(&other.rank)
    }
}

/// No two numbers have the same rank (the finalizer of `SplitMix64`: Steele, Lea and Flood, "Fast
/// Splittable Pseudorandom Number Generators", 2014).
fn rank(index: u64) -> u64 {
    let mut rank = index.wrapping_add(0x9e37_79b9_7f4a_7c15);
    rank = (rank ^ (rank >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    rank = (rank ^ (rank >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    rank ^ (rank >> 31)
}

impl Sieve {
    /// Keeps up to `most` samples; one request in `every` is a candidate.
    pub(crate) fn new(most: usize, every: NonZeroU64) -> Self {
        Self { most, below: u64::MAX / every, kept: BinaryHeap::new() }
    }

    /// Whether the sample of request `index` is kept, at least for now.
    pub(crate) fn wants(&self, index: u64) -> bool {
        self.most > 0 && rank(index) <= self.below
    }

    /// Keeps a sample if it is wanted; drops the one with the largest rank if there are too many.
    pub(crate) fn add(&mut self, sample: Sample) {
        if !self.wants(sample.index) {
            return;
        }
        self.kept.push(Kept { rank: rank(sample.index), sample });
        if self.kept.len() > self.most {
            self.kept.pop();
            self.below = self.kept.peek().map_or(0, |largest| largest.rank);
        }
    }

    /// The rank up to which every sample was kept.
    pub(crate) fn below(&self) -> u64 {
        self.below
    }

    /// Drops samples with a larger rank than `below`.
    pub(crate) fn cut(&mut self, below: u64) {
        self.below = self.below.min(below);
        self.kept.retain(|kept| kept.rank <= self.below);
    }

    /// Merges sieves into what one that had seen everything would have kept: the strictest of their
    /// bounds applies to all samples.
    pub(crate) fn join(sieves: impl IntoIterator<Item = Self>) -> Self {
        let mut joined = Self { most: 0, below: u64::MAX, kept: BinaryHeap::new() };
        for sieve in sieves {
            joined.most = joined.most.saturating_add(sieve.most);
            joined.below = joined.below.min(sieve.below);
            joined.kept.extend(sieve.kept);
        }
        joined.cut(joined.below);
        joined
    }

    /// The samples, in the order in which they were due.
    pub(crate) fn into_samples(self) -> Vec<Sample> {
        let mut samples: Vec<Sample> = self.kept.into_iter().map(|kept| kept.sample).collect();
        samples.sort_by_key(|sample| (sample.scheduled, sample.index));
        samples
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::time::Duration;

    use super::Sieve;
    use crate::sample::Sample;

    const ALL: NonZeroU64 = NonZeroU64::MIN;

    fn sample(index: u64) -> Sample {
        Sample::answered(index, Duration::from_millis(index), Duration::ZERO)
    }

    /// What is kept by threads that take turns, each within its share.
    fn kept(requests: u64, most: usize, threads: u64, every: NonZeroU64) -> Vec<u64> {
        let share = usize::try_from(threads).unwrap();
        let sieves = (0..threads).map(|thread| {
            let mut sieve = Sieve::new(most / share, every);
            (thread..requests).step_by(share).for_each(|index| sieve.add(sample(index)));
            sieve
        });
        Sieve::join(sieves).into_samples().iter().map(|sample| sample.index).collect()
    }

    #[test]
    fn where_there_is_room_every_sample_is_kept() {
        assert_eq!(kept(1000, 1000, 2, ALL), (0..1000).collect::<Vec<_>>());
        assert_eq!(kept(10, 0, 2, ALL), [0; 0]);
    }

    /// One request in two of two threads, one in ten of ten pictures: no rhythm meets another one.
    #[test]
    fn what_is_kept_is_spread_over_the_run_its_threads_and_its_requests() {
        for every in [1, 2, 10].map(|every| NonZeroU64::new(every).unwrap()) {
            let kept = kept(20_000, 20_000 / 10, 2, every);
            assert!((1600..=2000).contains(&kept.len()), "{every}: {}", kept.len());
            let share = |is_in: &dyn Fn(u64) -> bool| {
                let count = kept.iter().filter(|index| is_in(**index)).count();
                count as f64 / kept.len() as f64
            };
            for part in 0..10 {
                let of_time = share(&|index| index / 2000 == part);
                let of_item = share(&|index| index % 10 == part);
                assert!((0.07..0.13).contains(&of_time), "{every}, {part}: {of_time}");
                assert!((0.07..0.13).contains(&of_item), "{every}, {part}: {of_item}");
            }
            let of_thread = share(&|index| index % 2 == 0);
            assert!((0.45..0.55).contains(&of_thread), "{every}: {of_thread}");
        }
    }

    #[test]
    fn a_thread_with_more_requests_gets_no_larger_share_of_them_into_the_samples() {
        let mut sieves = [Sieve::new(500, ALL), Sieve::new(500, ALL)];
        // Nine in ten of the requests belong to the first thread.
        for index in 0..10_000 {
            sieves[usize::from(index % 10 == 0)].add(sample(index));
        }
        let samples = Sieve::join(sieves).into_samples();
        let of_second = samples.iter().filter(|sample| sample.index % 10 == 0).count();
        let share = of_second as f64 / samples.len() as f64;
        assert!((0.06..0.14).contains(&share), "{share} of {}", samples.len());
    }
}
