//! Pictures with two levels: ink and paper without light and shade.
//!
//! A picture that was cut out along the strokes of a digit shows too little of the sheet to
//! estimate it. But it has two levels, which Otsu's threshold separates ("A threshold selection
//! method from gray-level histograms", 1979).

use std::borrow::Cow;

use super::paper::{Ink, Tone};
use super::plane::Plane;

/// Minimum share of the variance that two levels explain.
const EXPLAINED: f64 = 0.8;
/// Levels closer than this count as one.
const APART: f64 = 40.0;

/// The two levels of the channel that shows them best.
#[derive(Debug)]
pub(super) struct Levels<'a> {
    channel: &'a Plane,
    dark: f64,
    light: f64,
    /// The share of the pixels on the dark side.
    dark_share: f64,
}

/// How a channel splits into two levels.
struct Split {
    dark: f64,
    light: f64,
    dark_share: f64,
    explained: f64,
}

impl<'a> Levels<'a> {
    /// `None` for a picture with more levels.
    pub(super) fn of(channels: &'a [Plane]) -> Option<Self> {
        let splits = channels.iter().filter_map(|channel| Some((channel, Split::of(channel)?)));
        let (channel, split) =
            splits.max_by(|(_, a), (_, b)| a.explained.total_cmp(&b.explained))?;
        let is_two = split.explained >= EXPLAINED && split.light - split.dark >= APART;
        let Split { dark, light, dark_share, .. } = split;
        is_two.then_some(Self { channel, dark, light, dark_share })
    }

    /// The share of the pixels that are nearer to ink.
    pub(super) fn ink_share(&self, tone: Tone) -> f64 {
        match tone {
            Tone::Dark => self.dark_share,
            Tone::Light => 1.0 - self.dark_share,
        }
    }

    /// Ink from 0 at one level to 1 at the other.
    pub(super) fn ink(&self, tone: Tone) -> Ink<'static> {
        let (paper, ink) = match tone {
            Tone::Dark => (self.light, self.dark),
            Tone::Light => (self.dark, self.light),
        };
        #[expect(clippy::cast_possible_truncation, reason = "a share")]
        let share = |&value: &f32| ((f64::from(value) - paper) / (ink - paper)) as f32;
        let values = self.channel.values.iter().map(share).collect();
        let amount = Plane { values, ..*self.channel };
        let levels = Cow::Owned(vec![amount.negative()]);
        Ink { amount, noise: 0.0, grain: 0.0, levels }
    }
}

impl Split {
    /// The split with the largest variance between the two sides.
    fn of(channel: &Plane) -> Option<Self> {
        // Neighbours are often alike, and adding to a counter that was just written takes longer.
        let mut histograms = [[0_u32; 256]; 4];
        for values in channel.values.chunks(4) {
            for (histogram, &value) in histograms.iter_mut().zip(values) {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a byte"
                )]
                let level = value.clamp(0.0, 255.0) as u8;
                histogram[usize::from(level)] += 1;
            }
        }
        let count = channel.values.len() as f64;
        let levels = || {
            let all = |level: u8| histograms.iter().map(|one| one[usize::from(level)]).sum::<u32>();
            (0..=u8::MAX).map(move |level| (f64::from(all(level)), f64::from(level)))
        };
        let mean = levels().map(|(count, level)| count * level).sum::<f64>() / count;
        let variance =
            levels().map(|(count, level)| count * (level - mean).powi(2)).sum::<f64>() / count;
        let (mut below, mut sum, mut best) = (0.0, 0.0, None::<Self>);
        for (here, level) in levels() {
            (below, sum) = (below + here, sum + here * level);
            let above = count - below;
            if below == 0.0 || above == 0.0 {
                continue;
            }
            let (dark, light) = (sum / below, (mean * count - sum) / above);
            let explained = below * above * (light - dark).powi(2) / (count * count * variance);
            if best.as_ref().is_none_or(|best| explained > best.explained) {
                best = Some(Self { dark, light, dark_share: below / count, explained });
            }
        }
        best
    }
}
