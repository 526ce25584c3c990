//! Removes the sheet of paper and leaves the ink.
//!
//! Lamps, vignettes and page curl are smooth, so a robust quadratic surface through each channel
//! removes them. Anything left that is wider than a stroke (the edge of a shadow, a stain) is
//! removed by a morphological closing at low resolution. Whether the ink is lighter or darker than
//! the paper follows from the skew of the rest: strokes are the few pixels far from the paper.

use std::borrow::Cow;

use super::plane::{Plane, median_and_spread};

/// Widest stroke, as a share of the view; anything wider is not ink.
pub(super) const WIDE: f32 = 0.28;
/// The same for a normal pen: less of the surroundings of a stroke is taken for ink.
pub(super) const NARROW: f32 = 0.1;
/// Longest side of the plane in which the bare sheet is estimated.
const COARSE: usize = 128;
/// The same for the light of the lamp.
const LAMP: usize = 64;
const ROUNDS: usize = 8;
/// The fit has converged when a round moves the surface by less than this, in levels of grey.
const SETTLED: f64 = 0.05;

/// The ink of each pixel in levels of grey, about zero on bare paper, and its noise.
#[derive(Debug)]
pub(super) struct Ink<'a> {
    pub(super) amount: Plane,
    pub(super) noise: f32,
    /// The noise from one pixel of a channel to the next.
    pub(super) grain: f32,
    /// The channels themselves, with ink below the paper.
    pub(super) levels: Cow<'a, [Plane]>,
}

/// Whether the ink is darker or lighter than the paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// A pen on paper.
    Dark,
    /// Chalk on a board.
    Light,
}

/// The channels of a view relative to the level of the paper.
#[derive(Debug)]
pub(super) struct Flat(Vec<Plane>);

/// Removes the lighting from the channels.
pub(super) fn flattened(channels: &[Plane]) -> Flat {
    Flat(channels.iter().map(flatten).collect())
}

impl Flat {
    /// The most likely tone of the ink.
    pub(super) fn likely_tone(&self) -> Tone {
        if skew(&self.0) > 0.0 { Tone::Light } else { Tone::Dark }
    }

    /// The same, with signs such that ink of this tone is below the paper.
    pub(super) fn of_tone(&self, tone: Tone) -> Toned<'_> {
        let levels: Cow<'_, [Plane]> = match tone {
            Tone::Dark => Cow::Borrowed(&self.0),
            Tone::Light => self.0.iter().map(Plane::negative).collect(),
        };
        let longest = levels[0].width.max(levels[0].height);
        let factor = longest.div_ceil(COARSE);
        let coarse = levels.iter().map(|plane| plane.shrunk(factor)).collect();
        let grain = levels.iter().map(Plane::grain).fold(0.0, f32::max);
        Toned { levels, coarse, factor, grain }
    }
}

/// The channels of a view with ink of one tone below the level of the paper.
#[derive(Debug)]
pub(super) struct Toned<'a> {
    levels: Cow<'a, [Plane]>,
    /// Means of blocks of `factor` by `factor` pixels.
    coarse: Vec<Plane>,
    factor: usize,
    grain: f32,
}

impl Toned<'_> {
    /// Ink of any colour on paper of any other colour, in strokes of up to `widest`, a share of
    /// the view.
    pub(super) fn ink(&self, widest: f32) -> Ink<'_> {
        let planes = self.levels.iter().zip(&self.coarse);
        let mut amounts = planes.map(|(level, coarse)| self.below_paper(level, coarse, widest));
        let mut amount = amounts.next().expect("a picture has a channel");
        for other in amounts {
            for (value, candidate) in amount.values.iter_mut().zip(other.values) {
                *value = value.max(candidate);
            }
        }
        if amount.width.min(amount.height) > COARSE {
            amount = amount.softened();
        }
        let (bare, noise) = median_and_spread(&amount.values);
        amount.values.iter_mut().for_each(|value| *value -= bare);
        Ink { amount, noise, grain: self.grain, levels: Cow::Borrowed(&self.levels) }
    }

    /// How far each pixel is below the sheet around it.
    fn below_paper(&self, flat: &Plane, coarse: &Plane, widest: f32) -> Plane {
        let side = coarse.width.max(coarse.height) as f32;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most COARSE"
        )]
        let radius = (widest * side / 2.0).ceil() as usize;
        // A block on an edge covers both sides. It counts as the darker one; otherwise the edge
        // would be ink.
        let edge = if self.factor > 1 { 2 } else { 0 };
        let sheet = coarse.closed(radius, radius + edge);
        let mut below = sheet.grown(flat.width, flat.height, self.factor);
        for (value, level) in below.values.iter_mut().zip(&flat.values) {
            *value -= level;
        }
        below
    }
}

/// Positive if the pixels far from the paper are lighter than the paper.
fn skew(channels: &[Plane]) -> f32 {
    channels.iter().flat_map(|plane| &plane.values).map(|value| value.powi(3)).sum()
}

/// The channel minus a quadratic surface that follows the majority of its pixels.
fn flatten(channel: &Plane) -> Plane {
    let samples = Samples::of(channel, channel.width.max(channel.height).div_ceil(LAMP));
    let mut surface = [0.0; TERMS];
    let (median, mut spread) = median_and_spread(&samples.values);
    surface[0] = f64::from(median);
    for _ in 0..ROUNDS {
        let Some(better) = samples.fit(&surface, f64::from(spread.max(2.0))) else { break };
        let change: f64 = surface.iter().zip(&better).map(|(old, new)| (old - new).abs()).sum();
        surface = better;
        if change < SETTLED {
            break;
        }
        spread = median_and_spread(&samples.rests(&surface)).1;
    }
    let mut flat = channel.clone();
    let columns: Vec<f64> = (0..channel.width).map(|x| position(x, channel.width)).collect();
    for (y, row) in flat.values.chunks_exact_mut(channel.width).enumerate() {
        let heights = Parabola::of(&surface, position(y, channel.height));
        for (value, &x) in row.iter_mut().zip(&columns) {
            *value -= heights.at(x);
        }
    }
    flat
}

/// Coefficients of 1, x, y, x², xy, y² with x and y from -1 to 1.
type Surface = [f64; TERMS];

const TERMS: usize = 6;
/// Powers of x and y in each term.
const POWERS: [(usize, usize); TERMS] = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)];

/// Position of a column or row, from -1 to 1.
fn position(at: usize, length: usize) -> f64 {
    (2 * at + 1) as f64 / length as f64 - 1.0
}

/// A surface along one row.
#[derive(Debug, Clone, Copy)]
struct Parabola([f64; 3]);

impl Parabola {
    fn of(surface: &Surface, y: f64) -> Self {
        let [one, across, down, curve, twist, bend] = *surface;
        Self([one + y * (down + y * bend), across + y * twist, curve])
    }

    fn at(self, x: f64) -> f32 {
        let Self([constant, linear, square]) = self;
        #[expect(clippy::cast_possible_truncation, reason = "a level of grey")]
        let height = (constant + x * (linear + x * square)) as f32;
        height
    }
}

/// A grid of pixels of a channel; those near the border count more, since digits are in the middle.
struct Samples {
    columns: Vec<f64>,
    rows: Vec<f64>,
    /// Row by row.
    values: Vec<f32>,
}

impl Samples {
    fn of(plane: &Plane, step: usize) -> Self {
        let positions =
            |length: usize| (0..length).step_by(step).map(move |at| position(at, length));
        let rows = plane.values.chunks_exact(plane.width).step_by(step);
        Self {
            columns: positions(plane.width).collect(),
            rows: positions(plane.height).collect(),
            values: rows.flat_map(|row| row.iter().step_by(step)).copied().collect(),
        }
    }

    /// The position and the samples of each row.
    fn by_row(&self) -> impl Iterator<Item = (f64, &[f32])> {
        self.rows.iter().copied().zip(self.values.chunks_exact(self.columns.len()))
    }

    /// The residuals of the samples from a surface.
    fn rests(&self, surface: &Surface) -> Vec<f32> {
        let rest = |(y, row)| {
            let heights = Parabola::of(surface, y);
            let rest = move |(value, x): (&f32, &f64)| value - heights.at(*x);
            <[f32]>::iter(row).zip(&self.columns).map(rest)
        };
        self.by_row().flat_map(rest).collect()
    }

    /// One round of iteratively reweighted least squares with Cauchy weights.
    ///
    /// On a grid the normal equations are sums of `x^i y^j`, gathered row by row.
    fn fit(&self, surface: &Surface, spread: f64) -> Option<Surface> {
        let mut moments = [[0.0; 5]; 5];
        let mut products = [[0.0; 3]; 3];
        for (y, row) in self.by_row() {
            let sums = self.row_sums(row, y, (surface, 0.5 / spread));
            let mut power = 1.0;
            for j in 0..5 {
                for i in 0..5 - j {
                    moments[i][j] += sums[i] * power;
                }
                for i in 0..3usize.saturating_sub(j) {
                    products[i][j] += sums[5 + i] * power;
                }
                power *= y;
            }
        }
        let mut system = [[0.0; TERMS + 1]; TERMS];
        for (row, (x, y)) in system.iter_mut().zip(POWERS) {
            for (cell, (other_x, other_y)) in row.iter_mut().zip(POWERS) {
                *cell = moments[x + other_x][y + other_y];
            }
            row[TERMS] = products[x][y];
        }
        solve(system)
    }

    /// Sums over a row of `w x^0` to `w x^4`, then of `w v x^0` to `w v x^2`, with the weight `w` and
    /// the value `v` of each sample.
    fn row_sums(&self, row: &[f32], y: f64, (surface, scale): (&Surface, f64)) -> [f64; 8] {
        let heights = Parabola::of(surface, y);
        let is_border = |at: f64| at.abs() > 0.85;
        let mut sums = [0.0; 8];
        for (&value, &x) in row.iter().zip(&self.columns) {
            let rest = f64::from(value - heights.at(x)) * scale;
            let importance = if is_border(x) || is_border(y) { 3.0 } else { 1.0 };
            let weight = importance / (1.0 + rest * rest);
            let (value, x_squared) = (weight * f64::from(value), x * x);
            let terms =
                [1.0, x, x_squared, x_squared * x, x_squared * x_squared, 1.0, x, x_squared];
            let factors = [weight, weight, weight, weight, weight, value, value, value];
            for ((sum, term), factor) in sums.iter_mut().zip(terms).zip(factors) {
                *sum += term * factor;
            }
        }
        sums
    }
}

/// Gaussian elimination with pivots; `None` for a degenerate picture, such as a single row.
fn solve(mut system: [[f64; TERMS + 1]; TERMS]) -> Option<[f64; TERMS]> {
    for column in 0..TERMS {
        let by_size =
            |&a: &usize, &b: &usize| system[a][column].abs().total_cmp(&system[b][column].abs());
        let pivot = (column..TERMS).max_by(by_size)?;
        system.swap(column, pivot);
        let lead = system[column];
        if lead[column].abs() < 1e-6 {
            return None;
        }
        for (row, equation) in system.iter_mut().enumerate() {
            if row != column {
                let factor = equation[column] / lead[column];
                for (cell, from) in equation.iter_mut().zip(&lead) {
                    *cell -= factor * from;
                }
            }
        }
    }
    Some(std::array::from_fn(|row| system[row][TERMS] / system[row][row]))
}
