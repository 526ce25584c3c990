//! Mean and quantiles of a list.
//!
//! Quantiles interpolate linearly between order statistics: definition 7 of Hyndman and Fan,
//! "Sample Quantiles in Statistical Packages" (1996), which is what `NumPy` and R use by default.

use serde::{Deserialize, Serialize};

use super::least::LeastValues;

/// A figure of a summary, which may be missing.
pub(crate) type Pick = fn(&Distribution) -> Option<f64>;

/// A list summed up in one line.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// How many values were summed up.
    pub count: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// Half of the values are smaller; `None` if there are too few values to say.
    pub p50: Option<f64>,
    /// 95 % of the values are smaller; `None` likewise.
    pub p95: Option<f64>,
    /// 99 % of the values are smaller; `None` likewise.
    pub p99: Option<f64>,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
    /// Figures that are lower bounds, because some of the times are.
    #[serde(default)]
    pub at_least: LeastValues,
}

impl Distribution {
    /// Sums up `values`; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let values = sorted(values);
        let (min, max) = (*values.first()?, *values.last()?);
        Some(Self {
            count: values.len(),
            mean: mean(&values)?,
            p50: sound_quantile(&values, 0.50),
            p95: sound_quantile(&values, 0.95),
            p99: sound_quantile(&values, 0.99),
            min,
            max,
            at_least: LeastValues::default(),
        })
    }

    /// The same for times, some of which are lower bounds: those of requests that were given up.
    pub fn of_times(times: impl IntoIterator<Item = Time>) -> Option<Self> {
        let times: Vec<Time> = times.into_iter().collect();
        let known = Self::of(&times.iter().map(|time| time.value).collect::<Vec<_>>())?;
        // Where the figures would be if all requests that were given up had taken forever.
        let longest = |time: &Time| if time.at_least { f64::MAX } else { time.value };
        let longest = Self::of(&times.iter().map(longest).collect::<Vec<_>>())?;
        let is_any = times.iter().any(|time| time.at_least);
        let [p50, p95, p99] =
            [known.p50 != longest.p50, known.p95 != longest.p95, known.p99 != longest.p99];
        let at_least = LeastValues::new([is_any, p50, p95, p99, is_any]);
        Some(Self { at_least, ..known })
    }
}

/// A time, or a lower bound of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Time {
    /// The time itself, in the unit of the others.
    pub value: f64,
    /// The true value is this or more.
    pub at_least: bool,
}

/// Number of values that makes quantile `q` sound: ten of them lie beyond it, on either side. No
/// number makes the smallest or the largest possible value sound.
pub fn samples_for(q: f64) -> f64 {
    const BEYOND: f64 = 10.0;
    (BEYOND / q.min(1.0 - q).max(0.0)).round()
}

/// The value below which the fraction `q` of `sorted` lies, if there are enough of them to say.
pub fn sound_quantile(sorted: &[f64], q: f64) -> Option<f64> {
    if (sorted.len() as f64) < samples_for(q) { None } else { quantile(sorted, q) }
}

/// The values in ascending order.
pub fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// The arithmetic mean; `None` if there are no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The value below which the fraction `q` of `sorted` lies; `None` if there are no values.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let (below, share) = place(sorted.len(), q)?;
    let above = (below + 1).min(sorted.len() - 1);
    Some(sorted[below] + (sorted[above] - sorted[below]) * share)
}

/// The same for values in any order, which need not be sorted for a single quantile.
pub fn quantile_of(values: &[f64], q: f64) -> Option<f64> {
    let (below, share) = place(values.len(), q)?;
    let mut values = values.to_vec();
    let (_, low, larger) = values.select_nth_unstable_by(below, f64::total_cmp);
    let low = *low;
    let high = larger.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    Some(low + (high - low) * share)
}

/// The same, if there are enough of them to say.
pub fn sound_quantile_of(values: &[f64], q: f64) -> Option<f64> {
    if (values.len() as f64) < samples_for(q) { None } else { quantile_of(values, q) }
}

/// Position of quantile `q` among `count` sorted values: the index of the value before it, and how
/// far it lies towards the next one.
fn place(count: usize, q: f64) -> Option<(usize, f64)> {
    let last = count.checked_sub(1)?;
    let position = q.clamp(0.0, 1.0) * last as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the last index"
    )]
    let below = (position.floor() as usize).min(last);
    Some((below, position - below as f64))
}

#[cfg(test)]
mod tests {
    use super::{Distribution, Time, quantile, quantile_of, samples_for, sound_quantile};

    #[test]
    fn an_empty_list_has_no_summary() {
        assert_eq!(Distribution::of(&[]), None);
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn a_quantile_of_too_few_values_is_not_told() {
        let text = [0.5, 0.95, 0.99].map(|q| samples_for(q).to_string());
        assert_eq!(text, ["20", "200", "1000"]);
        let far = [0.01, 0.001, 0.999_999_9].map(|q| samples_for(q).to_string());
        assert_eq!(far, ["1000", "10000", "100000000"]);
        assert!(samples_for(0.0).is_infinite() && samples_for(1.0).is_infinite());
        let dozen: Vec<f64> = (0..12).map(f64::from).collect();
        assert_eq!(sound_quantile(&dozen, 0.99), None);
        let summary = Distribution::of(&dozen).unwrap();
        assert_eq!((summary.p50, summary.p95, summary.p99), (None, None, None));
        assert!((summary.max - 11.0).abs() < 1e-12);
    }

    #[test]
    fn figures_that_would_be_larger_if_what_was_given_up_had_gone_on_are_least_values() {
        let times =
            |given_up: usize| (0..200).map(move |n| Time { value: 5.0, at_least: n < given_up });
        let least = |given_up| {
            let found = Distribution::of_times(times(given_up)).unwrap();
            found.at_least.names().collect::<Vec<_>>()
        };
        assert_eq!(least(0), [""; 0]);
        assert_eq!(least(1), ["mean", "max"]);
        assert_eq!(least(11), ["mean", "p95", "max"]);
        assert_eq!(least(150), ["mean", "p50", "p95", "max"]);
        let found = Distribution::of_times(times(11)).unwrap();
        let text = serde_json::to_string(&found).unwrap();
        assert!(text.contains(r#""at_least":["mean","p95","max"]"#), "{text}");
        assert_eq!(serde_json::from_str::<Distribution>(&text).unwrap(), found);
    }

    #[test]
    fn quantiles_interpolate_as_in_numpy() {
        let values = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(quantile(&values, 0.5), Some(2.5));
        for q in [0.0, 0.1, 0.5, 0.95, 1.0] {
            assert_eq!(quantile_of(&[3.0, 1.0, 4.0, 2.0], q), quantile(&values, q));
        }
        assert_eq!(quantile_of(&[], 0.5), None);
        assert!((quantile(&values, 0.95).unwrap() - 3.85).abs() < 1e-12);
        assert_eq!(quantile(&values, 0.0), Some(1.0));
        assert_eq!(quantile(&values, 1.0), Some(4.0));
    }
}
