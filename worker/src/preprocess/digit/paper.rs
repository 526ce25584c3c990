//! Takes the sheet of paper away and leaves the ink.
//!
//! Lamps, vignettes and page curl are smooth, so a robust quadratic surface through each channel
//! removes them. What is left and wider than any stroke (the edge of a shadow, a stain) goes by a
//! morphological closing at low resolution. Which of lighter and darker is ink follows from the
//! skew of what remains: strokes are the few pixels far from the paper.

use super::plane::{Plane, median_and_spread};

/// How much of a view a stroke can be wide; wider things are no ink.
const WIDEST_STROKE: f32 = 0.28;
/// Longest side of the plane in which the bare sheet is estimated.
const COARSE: usize = 64;
const ROUNDS: usize = 8;

/// How much ink each pixel has in levels of grey, about zero on bare paper, and the noise of that.
#[derive(Debug)]
pub(super) struct Ink {
    pub(super) amount: Plane,
    pub(super) noise: f32,
}

/// Ink of any colour on paper of any other.
pub(super) fn ink_on_paper(channels: &[Plane]) -> Ink {
    let mut flat: Vec<Plane> = channels.iter().map(flattened).collect();
    if skew(&flat) > 0.0 {
        for plane in &mut flat {
            plane.values.iter_mut().for_each(|value| *value = -*value);
        }
    }
    let mut amounts = flat.iter().map(below_paper);
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
    Ink { amount, noise }
}

/// Positive when the pixels far from the paper are lighter than it.
fn skew(channels: &[Plane]) -> f32 {
    channels.iter().flat_map(|plane| &plane.values).map(|value| value.powi(3)).sum()
}

/// How far each pixel is below the sheet around it.
fn below_paper(flat: &Plane) -> Plane {
    let longest = flat.width.max(flat.height);
    let factor = longest.div_ceil(COARSE);
    let coarse = flat.shrunk(factor);
    let side = coarse.width.max(coarse.height) as f32;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most COARSE")]
    let radius = (WIDEST_STROKE * side / 2.0).ceil() as usize;
    let sheet = coarse.dilated(radius).eroded(radius);
    let mut below = flat.clone();
    for (y, row) in below.values.chunks_exact_mut(flat.width).enumerate() {
        for (x, value) in row.iter_mut().enumerate() {
            *value = sheet.at_shrunk(x, y, factor) - *value;
        }
    }
    below
}

/// The channel minus a quadratic surface that follows the majority of its pixels.
fn flattened(channel: &Plane) -> Plane {
    let step = channel.width.max(channel.height).div_ceil(COARSE);
    let samples = samples(channel, step);
    let mut surface = [0.0; TERMS];
    let values: Vec<f32> = samples.iter().map(|sample| sample.value).collect();
    let (median, mut spread) = median_and_spread(&values);
    surface[0] = f64::from(median);
    for _ in 0..ROUNDS {
        let Some(better) = fit(&samples, &surface, f64::from(spread.max(2.0))) else { break };
        surface = better;
        let rest = |sample: &Sample| sample.value - height(&surface, &sample.terms);
        spread = median_and_spread(&samples.iter().map(rest).collect::<Vec<_>>()).1;
    }
    let mut flat = channel.clone();
    for (y, row) in flat.values.chunks_exact_mut(channel.width).enumerate() {
        for (x, value) in row.iter_mut().enumerate() {
            *value -= height(&surface, &terms(channel, x, y));
        }
    }
    flat
}

const TERMS: usize = 6;

struct Sample {
    terms: [f64; TERMS],
    value: f32,
    weight: f64,
}

/// 1, x, y, x², xy, y² with x and y from -1 to 1.
fn terms(plane: &Plane, x: usize, y: usize) -> [f64; TERMS] {
    let x = (2 * x + 1) as f64 / plane.width as f64 - 1.0;
    let y = (2 * y + 1) as f64 / plane.height as f64 - 1.0;
    [1.0, x, y, x * x, x * y, y * y]
}

fn height(surface: &[f64; TERMS], terms: &[f64; TERMS]) -> f32 {
    let sum: f64 = surface.iter().zip(terms).map(|(a, b)| a * b).sum();
    #[expect(clippy::cast_possible_truncation, reason = "a level of grey")]
    let sum = sum as f32;
    sum
}

/// A grid of pixels; those near the border count more, since digits are in the middle.
fn samples(plane: &Plane, step: usize) -> Vec<Sample> {
    let mut samples = Vec::new();
    for y in (0..plane.height).step_by(step) {
        for x in (0..plane.width).step_by(step) {
            let terms = terms(plane, x, y);
            let is_border = terms[1].abs().max(terms[2].abs()) > 0.85;
            let weight = if is_border { 3.0 } else { 1.0 };
            samples.push(Sample { terms, value: plane.values[y * plane.width + x], weight });
        }
    }
    samples
}

/// One round of iteratively reweighted least squares with Cauchy weights.
fn fit(samples: &[Sample], surface: &[f64; TERMS], spread: f64) -> Option<[f64; TERMS]> {
    let mut system = [[0.0; TERMS + 1]; TERMS];
    for sample in samples {
        let rest = f64::from(sample.value - height(surface, &sample.terms)) / (2.0 * spread);
        let weight = sample.weight / (1.0 + rest * rest);
        for (row, a) in system.iter_mut().zip(&sample.terms) {
            for (cell, b) in row.iter_mut().zip(&sample.terms) {
                *cell += weight * a * b;
            }
            row[TERMS] += weight * a * f64::from(sample.value);
        }
    }
    solve(system)
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
