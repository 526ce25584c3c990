//! Axes: which range to show, where the ticks are, and their labels.
//!
//! Ticks of a linear axis are 1, 2 or 5 times a power of ten apart, and it includes zero, so that
//! lengths compare. A logarithmic axis begins and ends on ticks.

/// How values map to lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Equal steps are equal lengths; starts at 0.
    Linear,
    /// Equal factors are equal lengths.
    Log,
}

impl Scale {
    /// Whether such an axis can show `value`.
    pub fn shows(self, value: f64) -> bool {
        match self {
            Self::Linear => value.is_finite(),
            Self::Log => value.is_finite() && value > 0.0,
        }
    }

    fn length(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.log10(),
        }
    }
}

/// An axis before it has a range.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// Quantity and unit.
    pub label: String,
    /// How values map to lengths.
    pub scale: Scale,
}

impl Axis {
    /// An axis with a label that names quantity and unit.
    pub fn new(label: &str, scale: Scale) -> Self {
        Self { label: label.to_owned(), scale }
    }

    /// The axis with a range that covers `values`, drawn from `span.0` to `span.1`.
    pub(super) fn fit(&self, values: impl Iterator<Item = f64>, span: (f64, f64)) -> Fitted {
        let (low, high) = values
            .filter(|value| self.scale.shows(*value))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            });
        let (low, high) = if low <= high { (low, high) } else { (1.0, 2.0) };
        let ticks = match self.scale {
            Scale::Linear => linear_ticks(low.min(0.0), high),
            Scale::Log => log_ticks(low, high),
        };
        Fitted { scale: self.scale, ticks, span }
    }
}

/// An axis with a range and a position. The first and the last tick are its ends.
#[derive(Debug, Clone)]
pub(super) struct Fitted {
    scale: Scale,
    ticks: Vec<f64>,
    span: (f64, f64),
}

impl Fitted {
    /// The coordinate of `value`.
    pub(super) fn at(&self, value: f64) -> f64 {
        let low = self.scale.length(self.ticks.first().copied().unwrap_or(1.0));
        let high = self.scale.length(self.ticks.last().copied().unwrap_or(2.0));
        let share = (self.scale.length(value) - low) / (high - low);
        self.span.0 + (self.span.1 - self.span.0) * share.clamp(-0.05, 1.05)
    }

    /// Whether the axis can show `value`.
    pub(super) fn shows(&self, value: f64) -> bool {
        self.scale.shows(value)
    }

    /// Where the axis begins.
    pub(super) fn base(&self) -> f64 {
        self.span.0
    }

    /// Place and text of the ticks; a crowded logarithmic axis shows only powers of ten.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let crowded = self.ticks.len() > 12;
        let is_decade = |tick: f64| (tick.log10() - tick.log10().round()).abs() < 1e-9;
        let shows = |tick: f64| !crowded || self.scale == Scale::Linear || is_decade(tick);
        self.ticks.iter().filter(|tick| shows(**tick)).map(|t| (self.at(*t), text(*t))).collect()
    }
}

fn linear_ticks(low: f64, high: f64) -> Vec<f64> {
    let high = if high > low { high } else { low + 1.0 };
    let step = round_up((high - low) / 6.0);
    let first = (low / step).floor();
    let mut ticks = Vec::new();
    for number in 0..64 {
        let tick = (first + f64::from(number)) * step;
        ticks.push(tick);
        if tick >= high - step * 1e-9 {
            break;
        }
    }
    ticks
}

fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let last = round_up(high).max(round_up(low * 1.01));
    let mut tick = round_down(low);
    let mut ticks = vec![tick];
    while tick < last * 0.999 && ticks.len() < 64 {
        tick = round_up(tick * 1.01);
        ticks.push(tick);
    }
    ticks
}

const STEPS: [f64; 4] = [1.0, 2.0, 5.0, 10.0];

/// The next of 1, 2, 5, 10, … at or above a positive `value`.
fn round_up(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    STEPS.iter().map(|s| s * decade).find(|step| *step >= value * (1.0 - 1e-9)).unwrap_or(value)
}

/// The next of 1, 2, 5, 10, … at or below a positive `value`.
fn round_down(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    STEPS
        .iter()
        .rev()
        .map(|step| step * decade)
        .find(|step| *step <= value * (1.0 + 1e-9))
        .unwrap_or(value)
}

/// A number, as short as an axis needs it.
fn text(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        large if large >= 1e6 => (value / 1e6, "M"),
        medium if medium >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let rounded = format!("{scaled:.4}");
    let short = rounded.trim_end_matches('0').trim_end_matches('.');
    format!("{}{unit}", if short.is_empty() || short == "-0" { "0" } else { short })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{linear_ticks, log_ticks, text};

    #[test]
    fn numbers_are_short() {
        let texts: Vec<_> = [0.0, 0.05, 2.0, 1500.0, 20_000.0, 3e6].map(text).into();
        assert_eq!(texts, ["0", "0.05", "2", "1500", "20k", "3M"]);
    }

    proptest! {
        #[test]
        fn ticks_ascend_and_hold_the_data(low in 1e-3_f64..1e6, factor in 1.0_f64..1e5) {
            let high = low * factor;
            for ticks in [linear_ticks(0.0, high), log_ticks(low, high)] {
                prop_assert!(ticks.len() >= 2 && ticks.windows(2).all(|pair| pair[0] < pair[1]));
                prop_assert!(ticks[0] <= low * 1.000_001);
                prop_assert!(ticks[ticks.len() - 1] >= high * 0.999_999);
            }
        }
    }
}
