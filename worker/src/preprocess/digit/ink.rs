//! Which of the ink is the digit.
//!
//! Ink is cut at a share of its darkest and gathered into connected strokes. The heaviest is the
//! digit, unless it runs into the border like the edge of a sheet; strokes nearby (the bar of a 5)
//! belong to it, specks and far ones do not.

use super::paper::Ink;
use super::plane::{Plane, quantile};

/// Less contrast than this, in levels of grey, is no ink.
const FAINTEST: f32 = 8.0;
/// A stroke has a pixel of at least this share of the darkest ink...
const SEED: f32 = 0.5;
/// ...and ends where there is less than this share.
const END: f32 = 0.25;

/// The strokes of one digit.
#[derive(Debug)]
pub(super) struct Strokes {
    /// Ink of these strokes only, 0 on paper to 1 in their middle.
    pub(super) ink: Plane,
    /// Around the strokes.
    pub(super) bounds: Bounds,
}

/// Columns and rows, the far ends excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) right: usize,
    pub(super) bottom: usize,
}

impl Bounds {
    pub(super) fn width(&self) -> usize {
        self.right - self.left
    }

    pub(super) fn height(&self) -> usize {
        self.bottom - self.top
    }

    fn of_pixel(x: usize, y: usize) -> Self {
        Self { left: x, top: y, right: x + 1, bottom: y + 1 }
    }

    fn join(&mut self, other: Self) {
        self.left = self.left.min(other.left);
        self.top = self.top.min(other.top);
        self.right = self.right.max(other.right);
        self.bottom = self.bottom.max(other.bottom);
    }

    /// Pixels between the two, zero when they overlap.
    fn gap(&self, other: &Self) -> usize {
        let across =
            other.left.saturating_sub(self.right).max(self.left.saturating_sub(other.right));
        let down = other.top.saturating_sub(self.bottom).max(self.top.saturating_sub(other.bottom));
        across.max(down)
    }
}

/// Connected pixels.
#[derive(Debug)]
struct Component {
    pixels: Vec<usize>,
    bounds: Bounds,
    mass: f32,
    darkest: f32,
    on_border: usize,
}

/// The digit in a view, or `None` when there is only paper.
pub(super) fn strokes(ink: &Ink) -> Option<Strokes> {
    let amount = &ink.amount;
    let floor = FAINTEST.max(4.0 * ink.noise);
    let mut darkest = peak(&amount.values);
    if darkest < floor {
        return None;
    }
    // Once more with the darkness of the digit itself: a speck may be darker than pencil.
    for _ in 0..2 {
        let all = components(amount, (END * darkest).max(3.0 * ink.noise), SEED * darkest);
        let main = heaviest(&all, amount)?;
        let mut values: Vec<f32> = main.pixels.iter().map(|&at| amount.values[at]).collect();
        darkest = quantile(&mut values, 0.9);
    }
    let end = (END * darkest).max(3.0 * ink.noise).min(0.6 * darkest);
    let all = components(amount, end, SEED * darkest);
    let main = heaviest(&all, amount)?;
    let reach = main.bounds.width().max(main.bounds.height()) / 4;
    let (mut bounds, mut kept) = (main.bounds, vec![false; amount.values.len()]);
    for part in all.iter().filter(|part| {
        let is_main = std::ptr::eq(*part, main);
        let belongs = part.mass > 0.03 * main.mass
            && part.on_border == 0
            && part.bounds.gap(&main.bounds) <= reach;
        is_main || belongs
    }) {
        bounds.join(part.bounds);
        part.pixels.iter().for_each(|&at| kept[at] = true);
    }
    Some(Strokes { ink: cut(amount, &kept, darkest, end), bounds })
}

/// A level that only some pixels exceed: the darkest ink but for a few sparks.
fn peak(values: &[f32]) -> f32 {
    let sparks = (values.len() / 1000).clamp(2, 40);
    let share = 1.0 - sparks as f32 / values.len() as f32;
    quantile(&mut values.to_vec(), share.max(0.5))
}

/// Ink as a share of the darkest, on the kept pixels and their immediate neighbours.
fn cut(amount: &Plane, kept: &[bool], darkest: f32, end: f32) -> Plane {
    let mask = Plane {
        values: kept.iter().map(|&is_kept| f32::from(u8::from(is_kept))).collect(),
        ..*amount
    };
    let mask = mask.dilated(1);
    let (low, high) = (0.6 * end, 0.85 * darkest);
    let mut ink = amount.clone();
    for (value, is_near) in ink.values.iter_mut().zip(mask.values) {
        *value = ((*value - low) / (high - low)).clamp(0.0, 1.0) * is_near;
    }
    ink
}

/// The component with the most ink; what touches the border counts little, and what runs along it
/// (the edge of the sheet, the table beside it) next to nothing.
fn heaviest<'a>(components: &'a [Component], amount: &Plane) -> Option<&'a Component> {
    let border = 2 * (amount.width + amount.height);
    let weight = |part: &Component| {
        let is_edge = part.on_border * 20 > border || part.on_border > part.pixels.len() / 8;
        let trust = match part.on_border {
            0 => 1.0,
            _ if is_edge => 0.005,
            _ => 0.25,
        };
        part.mass * trust
    };
    components.iter().max_by(|a, b| weight(a).total_cmp(&weight(b)))
}

/// Connected (8 neighbours) pixels above `end` that have a pixel above `seed`.
fn components(amount: &Plane, end: f32, seed: f32) -> Vec<Component> {
    let mut is_open: Vec<bool> = amount.values.iter().map(|&value| value > end).collect();
    let mut found = Vec::new();
    for start in 0..is_open.len() {
        if is_open[start] {
            let component = gather(amount, &mut is_open, start);
            if component.darkest > seed {
                found.push(component);
            }
        }
    }
    found
}

/// Flood fill; closes the pixels that it takes.
fn gather(amount: &Plane, is_open: &mut [bool], start: usize) -> Component {
    let (width, height) = (amount.width, amount.height);
    let bounds = Bounds::of_pixel(start % width, start / width);
    let mut part = Component { pixels: vec![start], bounds, mass: 0.0, darkest: 0.0, on_border: 0 };
    is_open[start] = false;
    let mut next = 0;
    while let Some(&at) = part.pixels.get(next) {
        next += 1;
        let (x, y) = (at % width, at / width);
        part.bounds.join(Bounds::of_pixel(x, y));
        part.mass += amount.values[at];
        part.darkest = part.darkest.max(amount.values[at]);
        let is_border = x == 0 || y == 0 || x + 1 == width || y + 1 == height;
        part.on_border += usize::from(is_border);
        for row in y.saturating_sub(1)..(y + 2).min(height) {
            for column in x.saturating_sub(1)..(x + 2).min(width) {
                let near = row * width + column;
                if std::mem::take(&mut is_open[near]) {
                    part.pixels.push(near);
                }
            }
        }
    }
    part
}
