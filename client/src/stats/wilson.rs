//! The interval of a share: Wilson, "Probable Inference, the Law of Succession, and Statistical
//! Inference" (1927). Honest for small counts and for shares near 0 and 1, where the textbook
//! interval leaves the unit range.

use serde::{Deserialize, Serialize};

use super::Interval;
use super::student::reach;

/// The 95 % quantile of the standard normal distribution, both tails.
const Z: f64 = 1.959_963_984_540_054;

/// The 95 % interval of `successes` out of `count`; everything between 0 and 1 if `count` is 0.
pub fn wilson(successes: u64, count: u64) -> Interval {
    if count == 0 {
        return Interval { low: 0.0, high: 1.0 };
    }
    interval(successes as f64 / count as f64, count as f64, Z)
}

/// How often something was tried, and how often it succeeded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Successes.
    pub successes: u64,
    /// All tries.
    pub count: u64,
}

/// The 95 % interval of the share of successes among things like these, each of which was tried
/// several times. A thing that succeeded once will do so again, so things count, not tries. How
/// many independent tries they are worth follows from how much the things differ (the design
/// effect: Kish, "Survey Sampling", 1965), and Student's t replaces the normal distribution, as
/// there may be few things.
pub fn wilson_of_groups(things: &[Tried]) -> Interval {
    let things: Vec<Tried> = things.iter().filter(|thing| thing.count > 0).copied().collect();
    let sum = |of: fn(&Tried) -> u64| things.iter().map(of).sum::<u64>() as f64;
    let (successes, count) = (sum(|it| it.successes), sum(|it| it.count));
    if count == 0.0 {
        return Interval { low: 0.0, high: 1.0 };
    }
    let (share, groups) = (successes / count, things.len() as f64);
    let off = |thing: &Tried| (thing.successes as f64 - share * thing.count as f64).powi(2);
    let variance = groups / (groups - 1.0) * things.iter().map(off).sum::<f64>() / count.powi(2);
    let worth = if variance > 0.0 { share * (1.0 - share) / variance } else { groups };
    interval(share, worth.clamp(1.0, count), reach(groups - 1.0))
}

/// The interval of `share` of `n` tries that reaches `z` standard errors to either side.
fn interval(share: f64, n: f64, z: f64) -> Interval {
    let spread = z * z / n;
    let centre = share + spread / 2.0;
    let margin = z * ((share * (1.0 - share) + spread / 4.0) / n).sqrt();
    Interval {
        low: ((centre - margin) / (1.0 + spread)).max(0.0),
        high: ((centre + margin) / (1.0 + spread)).min(1.0),
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::ChaCha12Rng;
    use rand::{RngExt, SeedableRng};

    use super::{Tried, wilson, wilson_of_groups};

    const TRUTH: f64 = 0.8;

    /// How many of 1,000 intervals contain the truth, by things and by tries, for 40 pictures that
    /// are asked about 25 times each; `draw` decides whether an answer about an easy or a hard
    /// picture is right.
    fn covered(mut draw: impl FnMut(&mut ChaCha12Rng, bool) -> bool) -> (u32, u32) {
        let mut rng = ChaCha12Rng::seed_from_u64(7);
        let (mut by_things, mut by_tries) = (0, 0);
        for _ in 0..1000 {
            let mut things = Vec::new();
            for _ in 0..40 {
                let is_easy = rng.random_bool(TRUTH);
                let right = (0..25).filter(|_| draw(&mut rng, is_easy)).count() as u64;
                things.push(Tried { successes: right, count: 25 });
            }
            let holds = |it: super::Interval| u32::from((it.low..=it.high).contains(&TRUTH));
            by_things += holds(wilson_of_groups(&things));
            by_tries += holds(wilson(things.iter().map(|it| it.successes).sum(), 1000));
        }
        (by_things, by_tries)
    }

    #[test]
    fn pictures_count_and_not_how_often_each_was_sent() {
        // A model gives the same answer about the same picture every time.
        let (by_things, by_tries) = covered(|_, is_easy| is_easy);
        assert!((930..=985).contains(&by_things), "{by_things}");
        assert!(by_tries < 500, "{by_tries}: taken as 1,000 answers, they prove too much");
        // If each answer is a draw of its own, the answers count.
        let (by_things, _) = covered(|rng, _| rng.random_bool(TRUTH));
        assert!((920..=980).contains(&by_things), "{by_things}");
    }

    #[test]
    fn one_picture_says_next_to_nothing_and_no_picture_nothing() {
        let one = wilson_of_groups(&[Tried { successes: 500, count: 500 }]);
        assert!(one.low < 0.05 && one.high > 0.999, "{one:?}");
        let none = wilson_of_groups(&[Tried::default()]);
        assert!(none.low <= 0.0 && none.high >= 1.0);
        let thing = Tried { successes: 1, count: 1 };
        let all = wilson_of_groups(&[thing; 150]);
        assert!((0.97..0.98).contains(&all.low), "{all:?}");
    }
}
