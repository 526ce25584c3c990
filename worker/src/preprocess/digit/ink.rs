//! Finds the strokes of the digit among all ink.
//!
//! Ink is thresholded at a share of its darkest value and gathered into connected strokes. The
//! heaviest component that can be a digit is the digit. Strokes nearby (the bar of a 5) belong to
//! it; specks, distant strokes and underlines do not. If something darker does not have the shape
//! of a digit (a frame, the edge of a table), it is removed and the rest is searched again. How
//! well the picture shows the outline of a candidate distinguishes real ink from false: at the edge
//! of a shadow or of a sheet, the estimate of the paper is wrong.

use super::component::{Bounds, Component, components};
use super::paper::Ink;
use super::plane::{Plane, high_quantile, quantile};

/// Contrast below this, in levels of grey, is not ink.
const FAINTEST: f32 = 8.0;
/// A stroke has a pixel of at least this share of the darkest ink...
const SEED: f32 = 0.5;
/// ...and ends where there is less than this share.
const END: f32 = 0.25;
/// A digit that fills the view has more than this share of the ink.
const SPANNING: f32 = 0.9;
/// An outline pixel is supported if the picture changes there by this share of the ink's darkness.
const SHOWN: f32 = 0.5;
/// Strokes are certain if at least this share of their outline is supported.
const SURE: f32 = 0.9;
/// Below this share, it is an effect of the light and not ink.
const LIKELY: f32 = 0.6;
/// Maximum half-width of the broadest stroke, as a share of the digit's longest side.
const BROADEST: f32 = 0.3;
/// Half the width of a stroke at its broadest is at most this many times its usual width.
const EVEN: f32 = 1.5;
/// Strokes shorter than this, in pixels of the view, are too small to have a shape.
const SPECK: usize = 12;
/// How often ink that is not a digit is removed before the search gives up.
const LAYERS: usize = 3;
/// How many of the heaviest strokes are examined, which bounds the work if a view has thousands.
const CANDIDATES: usize = 64;
/// If more strokes than this have at least half of the heaviest one's ink, they are a pattern, and
/// none is the digit.
const CROWD: usize = 40;

/// The strokes of one digit.
#[derive(Debug)]
pub(super) struct Strokes {
    /// Ink of these strokes only, 0 on paper to 1 in their middle.
    pub(super) ink: Plane,
    /// The rectangle around the strokes.
    pub(super) bounds: Bounds,
    /// The rectangle around all of the ink, including that at their edges.
    pub(super) inked: Bounds,
    /// The evidence for them: the amount of ink, reduced for strokes that leave the view.
    pub(super) weight: f32,
    /// The share of their outline that the picture supports.
    pub(super) support: f32,
}

impl Strokes {
    /// Whether they are certainly ink.
    pub(super) fn is_sure(&self) -> bool {
        self.is_whole() && self.support >= SURE
    }

    /// Whether they may be a digit; strokes that leave the view need more support.
    pub(super) fn is_likely(&self) -> bool {
        self.support >= if self.is_whole() { LIKELY } else { SURE }
    }

    /// How likely they are a digit: the support of their outline counts before their weight.
    pub(super) fn score(&self) -> f32 {
        self.support.powi(4) * self.weight.sqrt()
    }

    /// Whether they are too small for their shape to be recognised.
    pub(super) fn is_speck(&self) -> bool {
        self.bounds.longest() < SPECK
    }

    /// Whether they lie inside the view and touch no border of it.
    pub(super) fn is_whole(&self) -> bool {
        let Bounds { left, top, right, bottom } = self.bounds;
        left > 0 && top > 0 && right < self.ink.width && bottom < self.ink.height
    }
}

/// Whether there is no ink at all. Ignoring lines can only leave less.
pub(super) fn is_bare(ink: &Ink<'_>) -> bool {
    is_faint(peak(&ink.amount.values), ink.noise)
}

fn is_faint(darkest: f32, noise: f32) -> bool {
    darkest < FAINTEST.max(4.0 * noise)
}

/// What a view shows.
pub(super) enum Sight {
    Digit(Strokes),
    /// Nothing that resembles a digit.
    Nothing,
    /// Lines that may be connected to the digit; they are ignored from this `thin` upwards.
    Ruled(usize),
}

/// What a view shows if lines up to twice `thin` pixels wide are ignored.
pub(super) fn strokes(ink: &Ink<'_>, thin: usize) -> Sight {
    let opened;
    let amount = if thin == 0 {
        &ink.amount
    } else {
        opened = ink.amount.opened(thin);
        &opened
    };
    let mut rest = None;
    for _ in 0..LAYERS {
        let left = rest.as_ref().unwrap_or(amount);
        match search(left, ink.noise) {
            Search::Found(found) => return Sight::Digit(found.cut(ink, thin)),
            Search::Ruled(thin) => return Sight::Ruled(thin),
            Search::Nothing => break,
            Search::NoDigit(pixels) => {
                let mut less = left.clone();
                erase(&mut less, &pixels);
                rest = Some(less);
            }
        }
    }
    Sight::Nothing
}

/// Half the greatest width and the strokes of a digit that fills a view from border to border, in a
/// picture of two levels: nearly all the ink is in one piece.
pub(super) fn spanning(ink: &Ink<'_>) -> Option<(f32, Strokes)> {
    let all = components(&ink.amount, 0.5, 0.8);
    let total: f32 = all.iter().map(|part| part.mass).sum();
    let main = (0..all.len()).max_by(|&a, &b| all[a].mass.total_cmp(&all[b].mass))?;
    let part = &all[main];
    let is_alone = part.fills() && part.mass > SPANNING * total;
    if !is_alone || !part.is_stroke() || part.is_box() {
        return None;
    }
    let (widest, longest) = (part.widest(), part.bounds.longest() as f32);
    let is_digit = widest < BROADEST * longest && widest < EVEN * part.stroke_width();
    is_digit.then(|| (widest, Found { parts: all, main, darkest: 1.0, end: 0.2 }.cut(ink, 0)))
}

enum Search {
    Found(Found),
    /// The indices of ink that does not belong to a digit.
    NoDigit(Vec<usize>),
    /// Half the width of lines that may be connected to the digit.
    Ruled(usize),
    Nothing,
}

/// The strokes of a digit, and the threshold and components that they were found with.
struct Found {
    parts: Vec<Component>,
    main: usize,
    darkest: f32,
    end: f32,
}

fn search(amount: &Plane, noise: f32) -> Search {
    let mut darkest = peak(&amount.values);
    if is_faint(darkest, noise) {
        return Search::Nothing;
    }
    // The second pass uses the darkness of the digit itself, because a speck may be darker than
    // pencil.
    for _ in 0..2 {
        let all = components(amount, (END * darkest).max(3.0 * noise), SEED * darkest);
        let Some(main) = heaviest(&all) else {
            if let Some(ruling) = all.iter().find(|part| part.is_ruling()) {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "pixels"
                )]
                return Search::Ruled((ruling.stroke_width() / 2.0).ceil() as usize);
            }
            let pixels: Vec<usize> = all.into_iter().flat_map(|part| part.pixels).collect();
            return if pixels.is_empty() { Search::Nothing } else { Search::NoDigit(pixels) };
        };
        let values: Vec<f32> = all[main].pixels.iter().map(|&at| amount.values[at]).collect();
        darkest = quantile(&values, 0.9);
    }
    let end = (END * darkest).max(3.0 * noise).min(0.6 * darkest);
    let parts = components(amount, end, SEED * darkest);
    match heaviest(&parts) {
        Some(main) => Search::Found(Found { parts, main, darkest, end }),
        None => Search::Nothing,
    }
}

/// A level that only a few pixels exceed: the darkest ink apart from outliers.
fn peak(values: &[f32]) -> f32 {
    let sparks = (values.len() / 1000).clamp(2, 12);
    let share = 1.0 - sparks as f32 / values.len() as f32;
    high_quantile(values, share.max(0.5))
}

/// Turns these pixels and their neighbours into paper.
fn erase(amount: &mut Plane, pixels: &[usize]) {
    let (width, height) = (amount.width, amount.height);
    for &at in pixels {
        let (x, y) = (at % width, at / width);
        for row in y.saturating_sub(2)..(y + 3).min(height) {
            for column in x.saturating_sub(2)..(x + 3).min(width) {
                amount.values[row * width + column] = 0.0;
            }
        }
    }
}

/// The component with the most ink that has the shape of a digit; components that touch the border
/// count little.
fn heaviest(components: &[Component]) -> Option<usize> {
    let (boxes, mut others): (Vec<usize>, Vec<usize>) =
        (0..components.len()).partition(|&at| components[at].is_box());
    let sheets: Vec<Bounds> = boxes
        .into_iter()
        .filter(|&at| components[at].is_solid())
        .map(|at| components[at].bounds)
        .collect();
    let strokes: Vec<Bounds> =
        components.iter().filter(|part| part.is_stroke()).map(|part| part.bounds).collect();
    others.retain(|&at| components[at].is_stroke() && !components[at].is_edge());
    let weight = |at: usize| weight(&components[at]);
    others.sort_unstable_by(|&a, &b| weight(b).total_cmp(&weight(a)).then(b.cmp(&a)));
    let is_as_heavy = |&&at: &&usize| 2.0 * weight(at) >= weight(others[0]);
    if others.iter().take_while(is_as_heavy).count() > CROWD {
        return None;
    }
    others.into_iter().take(CANDIDATES).find(|&at| {
        let part = &components[at];
        // A part as light as the sheet around it is the inside of a digit.
        !sheets.iter().any(|sheet| sheet.surrounds(&part.bounds)) && !part.encloses(&strokes)
    })
}

fn weight(part: &Component) -> f32 {
    if part.on_border == 0 { part.mass } else { 0.25 * part.mass }
}

impl Found {
    /// Cuts the strokes out of all the ink, grown by the `thin` pixels that were eroded before.
    fn cut(&self, all: &Ink<'_>, thin: usize) -> Strokes {
        let amount = &all.amount;
        let view = (amount.width, amount.height);
        let main = &self.parts[self.main];
        let parts = self.parts.iter().enumerate();
        let own = parts.filter(|(at, part)| *at == self.main || belongs(part, main));
        let own: Vec<&Component> = own.map(|(_, part)| part).collect();
        let mut bounds = main.bounds;
        for part in &own {
            bounds.join(part.bounds);
        }
        // There is nothing outside this rectangle, however large the view is.
        let inked = bounds.grown(1 + thin, view);
        let mut kept = Plane { width: inked.width(), height: inked.height(), values: Vec::new() };
        kept.values.resize(kept.width * kept.height, 0.0);
        for &at in own.iter().flat_map(|part| &part.pixels) {
            let (x, y) = (at % view.0 - inked.left, at / view.0 - inked.top);
            kept.values[y * kept.width + x] = 1.0;
        }
        let mask = kept.dilated(1 + thin);
        let (low, high) = (0.6 * self.end, 0.85 * self.darkest);
        let mut ink = amount.part(inked);
        for (value, is_near) in ink.values.iter_mut().zip(mask.values) {
            *value = ((*value - low) / (high - low)).clamp(0.0, 1.0) * is_near;
        }
        let ink = ink.amid(view, inked);
        let width = main.stroke_width() + 2.0 * thin as f32;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few pixels")]
        let reach = (0.75 * width).ceil().clamp(2.0, 12.0) as usize + thin;
        let support = main.support(&all.levels, reach, SHOWN * self.darkest + 4.0 * all.grain);
        Strokes { ink, bounds, inked, weight: weight(main), support }
    }
}

/// Whether a stroke near the main one is part of the same digit.
fn belongs(part: &Component, main: &Component) -> bool {
    let reach = main.bounds.longest() / 4;
    let is_below = part.bounds.top.midpoint(part.bounds.bottom) + 1 >= main.bounds.bottom;
    let is_wider = part.bounds.width() * 4 > main.bounds.width() * 5;
    let is_underline = part.is_lying() && (is_below || is_wider);
    part.mass > 0.03 * main.mass
        && part.on_border == 0
        && !is_underline
        && !part.encloses(&[main.bounds])
        && part.bounds.gap(&main.bounds) <= reach
}
