//! Decides whether a picture shows one handwritten digit or is a photo of something else; pure.
//!
//! The rule looks at the few pixels that a photo model would see, reduced once more. A digit is ink
//! on a background: nearly every cell is close to one even tone (which may change gradually over
//! the sheet, as light does), or clearly apart from it, or lies between the two where they meet.
//! All ink is darker than the background or all of it is lighter, only a small part of the edge is
//! inked, and strokes are thin. Photos have tones in between everywhere, darker and lighter, up to
//! the edge. Colour counts only where there is much of it: paper may be yellow and ink blue.

use super::picture::Pixels;

/// Cells per side.
const SIDE: usize = 56;
const CELLS: usize = SIDE * SIDE;
/// A cell closer to the background tone than this is background, in levels of grey.
const GROUND: f32 = 20.0;
/// A cell farther from it than this is ink.
const INK: f32 = 40.0;
/// Minimum share of background.
const MIN_GROUND: f32 = 0.45;
/// Minimum share of background, ink and cells beside ink, which strokes with soft edges have.
const MIN_CLEAR: f32 = 0.98;
/// The largest share of the picture that may be inked in the opposite tone.
const MAX_OTHER: f32 = 0.015;
/// The largest share of the edge that may be inked.
const MAX_EDGE: f32 = 0.2;
/// The largest share of the picture that may differ from the background in hue.
const MAX_COLOURED: f32 = 0.2;
/// A cell whose colour channels differ from the background's by factors this far apart has
/// another hue.
const HUE: f32 = 0.22;
/// Strokes have vanished when this many layers are peeled off.
const MAX_LAYERS: usize = 13;
/// How often the background is fitted, each time without the cells far from the previous fit.
const FITS: usize = 4;

/// One cell of the picture: red, green and blue.
type Cell = [f32; 3];

/// Whether `pixels`, the picture at the input size of a photo model, show one digit on its
/// background.
pub(super) fn is_likely(pixels: &Pixels) -> bool {
    let Some(cells) = cells(pixels) else { return false };
    let distances = distances(&cells);
    let share = |is: &dyn Fn(f32) -> bool| {
        distances.iter().filter(|distance| is(**distance)).count() as f32 / CELLS as f32
    };
    let ground = share(&|distance| distance.abs() < GROUND);
    let (dark, light) = (share(&|distance| distance < -INK), share(&|distance| distance > INK));
    if ground < MIN_GROUND
        || clear(&distances) < MIN_CLEAR
        || dark.min(light) > MAX_OTHER
        || coloured(&cells, &distances) > MAX_COLOURED
    {
        return false;
    }
    let sign = if dark >= light { -1.0 } else { 1.0 };
    let ink: Vec<bool> = distances.iter().map(|distance| distance * sign > INK).collect();
    edge(&ink) <= MAX_EDGE && layers(ink) <= MAX_LAYERS
}

/// The mean of each cell of the picture; `None` if it has fewer pixels per side than there are
/// cells.
fn cells(pixels: &Pixels) -> Option<Vec<Cell>> {
    let (raw, size, channels) = match pixels {
        Pixels::Gray(image) => (image.as_raw(), image.dimensions(), 1),
        Pixels::Rgb(image) => (image.as_raw(), image.dimensions(), 3),
    };
    let (width, height) = (size.0 as usize, size.1 as usize);
    if width < SIDE || height < SIDE {
        return None;
    }
    let cell = |at: usize| {
        let (x, y) = (at % SIDE, at / SIDE);
        let rows = y * height / SIDE..(y + 1) * height / SIDE;
        let columns = x * width / SIDE..(x + 1) * width / SIDE;
        let count = (rows.len() * columns.len()) as f32;
        let mut sums = [0_u32; 3];
        for row in rows {
            let start = row * width;
            let line = &raw[(start + columns.start) * channels..(start + columns.end) * channels];
            for pixel in line.chunks_exact(channels) {
                for (sum, byte) in sums.iter_mut().zip(pixel) {
                    *sum += u32::from(*byte);
                }
            }
        }
        if channels == 1 {
            sums = [sums[0]; 3];
        }
        sums.map(|sum| sum as f32 / count)
    };
    Some((0..CELLS).map(cell).collect())
}

/// How much lighter each cell is than the background, a plane that most cells lie close to.
fn distances(cells: &[Cell]) -> Vec<f32> {
    let luma: Vec<f32> =
        cells.iter().map(|[red, green, blue]| 0.299 * red + 0.587 * green + 0.114 * blue).collect();
    let level = median(luma.clone());
    let mut distances: Vec<f32> = luma.iter().map(|value| value - level).collect();
    for _ in 0..FITS {
        let usual = median(distances.iter().map(|distance| distance.abs()).collect());
        let reach = (2.0 * usual).max(12.0);
        let near = distances.iter().map(|distance| distance.abs() <= reach);
        let Some(plane) = plane(&luma, near) else { break };
        for (at, (distance, value)) in distances.iter_mut().zip(&luma).enumerate() {
            let (x, y) = place(at);
            *distance = value - (plane[0] + plane[1] * x + plane[2] * y);
        }
    }
    distances
}

/// Position of a cell, from -0.5 to 0.5.
fn place(at: usize) -> (f32, f32) {
    let centred = |step: usize| step as f32 / SIDE as f32 - 0.5;
    (centred(at % SIDE), centred(at / SIDE))
}

/// The least-squares plane through the values that are `near`.
fn plane(values: &[f32], near: impl Iterator<Item = bool>) -> Option<[f32; 3]> {
    let mut sums = [[0.0_f32; 4]; 3];
    for (at, (value, _)) in values.iter().zip(near).enumerate().filter(|(_, (_, near))| *near) {
        let (x, y) = place(at);
        let row = [1.0, x, y, *value];
        for (sum, factor) in sums.iter_mut().zip(row) {
            for (one, value) in sum.iter_mut().zip(row) {
                *one += factor * value;
            }
        }
    }
    solve(sums)
}

/// Solves three linear equations, each with its right-hand side last; `None` if they are singular.
fn solve(mut rows: [[f32; 4]; 3]) -> Option<[f32; 3]> {
    for pivot in 0..3 {
        if rows[pivot][pivot].abs() < 1e-3 {
            return None;
        }
        let own = rows[pivot].map(|value| value / rows[pivot][pivot]);
        rows[pivot] = own;
        for (_, row) in rows.iter_mut().enumerate().filter(|(at, _)| *at != pivot) {
            let factor = row[pivot];
            for (value, own) in row.iter_mut().zip(own) {
                *value -= factor * own;
            }
        }
    }
    Some(rows.map(|row| row[3]))
}

/// The share of the cells whose hue differs from the background's.
fn coloured(cells: &[Cell], distances: &[f32]) -> f32 {
    let ground = cells.iter().zip(distances).filter(|(_, distance)| distance.abs() < GROUND);
    let mut mean = [0.0_f32; 3];
    let mut count = 0.0_f32;
    for (cell, _) in ground {
        count += 1.0;
        for (sum, value) in mean.iter_mut().zip(cell) {
            *sum += value;
        }
    }
    // Near black, every hue is noise.
    let mean = mean.map(|sum| sum / count.max(1.0) + 8.0);
    let is_coloured = |cell: &&Cell| {
        let factors = [0, 1, 2].map(|channel| (cell[channel] + 8.0) / mean[channel]);
        let (least, most) = factors
            .into_iter()
            .fold((f32::MAX, f32::MIN), |(least, most), one| (least.min(one), most.max(one)));
        most - least > HUE
    };
    cells.iter().filter(is_coloured).count() as f32 / CELLS as f32
}

/// The share of the cells whose tone is explained: background, ink, or next to ink.
fn clear(distances: &[f32]) -> f32 {
    let is_ink = |at: usize| distances[at].abs() > INK;
    let is_clear = |at: usize| {
        let (x, y) = (at % SIDE, at / SIDE);
        distances[at].abs() < GROUND
            || is_ink(at)
            || (x > 0 && is_ink(at - 1))
            || (x < SIDE - 1 && is_ink(at + 1))
            || (y > 0 && is_ink(at - SIDE))
            || (y < SIDE - 1 && is_ink(at + SIDE))
    };
    (0..CELLS).filter(|at| is_clear(*at)).count() as f32 / CELLS as f32
}

/// The share of the picture's edge that is inked.
fn edge(ink: &[bool]) -> f32 {
    let is_edge = |at: usize| {
        let (x, y) = (at % SIDE, at / SIDE);
        x == 0 || y == 0 || x == SIDE - 1 || y == SIDE - 1
    };
    let inked = ink.iter().enumerate().filter(|(at, inked)| **inked && is_edge(*at)).count();
    inked as f32 / (4 * (SIDE - 1)) as f32
}

/// How many layers can be peeled off the ink before nothing is left; counts no further than needed.
fn layers(mut ink: Vec<bool>) -> usize {
    let mut count = 0;
    while count <= MAX_LAYERS && ink.iter().any(|inked| *inked) {
        ink = eroded(&ink);
        count += 1;
    }
    count
}

fn eroded(ink: &[bool]) -> Vec<bool> {
    let kept = |at: usize| {
        let (x, y) = (at % SIDE, at / SIDE);
        let is_inside = x > 0 && y > 0 && x < SIDE - 1 && y < SIDE - 1;
        is_inside && ink[at] && ink[at - 1] && ink[at + 1] && ink[at - SIDE] && ink[at + SIDE]
    };
    (0..CELLS).map(kept).collect()
}

fn median(mut values: Vec<f32>) -> f32 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma, Rgb, RgbImage};

    use super::*;

    /// A stroke of one colour across a sheet of another that gets darker towards one side.
    fn sheet(ink: [u8; 3], paper: [u8; 3], width: u32) -> Pixels {
        Pixels::Rgb(RgbImage::from_fn(224, 224, |x, y| {
            let is_ink = (y + 20).abs_diff(x * 6 / 5) < width && (40..190).contains(&y);
            let lit = |level: u8| u8::try_from(u32::from(level) * (1000 - x) / 1000);
            Rgb(if is_ink { ink } else { paper }.map(|level| lit(level).expect("darker")))
        }))
    }

    #[test]
    fn thin_ink_on_an_even_ground_is_a_digit_whatever_the_colours() {
        for (ink, paper) in [
            ([20, 20, 20], [250, 250, 250]),
            ([250, 250, 250], [0, 0, 0]),
            ([30, 40, 120], [240, 235, 225]),
            ([40, 30, 30], [230, 210, 150]),
            ([230, 230, 230], [20, 70, 40]),
        ] {
            assert!(is_likely(&sheet(ink, paper, 9)), "{ink:?} on {paper:?}");
        }
    }

    #[test]
    fn a_digit_may_be_large_and_have_soft_edges_as_one_that_was_enlarged_has() {
        let ring = |dark: bool| {
            Pixels::Gray(GrayImage::from_fn(224, 224, |x, y| {
                let radius = (x.abs_diff(112).pow(2) + y.abs_diff(112).pow(2)).isqrt();
                let inked = (32_u32.saturating_sub(radius.abs_diff(70)) * 16).min(255);
                let tone = u8::try_from(inked).expect("a byte");
                Luma([if dark { 255 - tone } else { tone }])
            }))
        };
        assert!(is_likely(&ring(true)) && is_likely(&ring(false)));
    }

    #[test]
    fn an_object_on_an_even_ground_is_none() {
        assert!(!is_likely(&sheet([20, 20, 20], [250, 250, 250], 70)), "too thick for a stroke");
    }

    #[test]
    fn tones_between_tones_on_both_sides_and_ink_along_the_edge_are_a_photo() {
        let of = |tone: fn(u32, u32) -> u8| {
            Pixels::Gray(GrayImage::from_fn(224, 224, |x, y| Luma([tone(x, y)])))
        };
        assert!(
            !is_likely(&of(|x, y| u8::try_from((x * x / 97 + y * 3) % 256).expect("a byte"))),
            "every tone"
        );
        assert!(!is_likely(&of(|x, _| [20, 128, 230][(x / 20 % 3) as usize])), "three tones");
        assert!(!is_likely(&of(|_, y| if y < 30 { 20 } else { 240 })), "the edge");
        assert!(is_likely(&of(|_, _| 255)), "a blank sheet: that no digit is there is an answer");
    }

    #[test]
    fn pictures_smaller_than_what_is_looked_at_are_not_judged() {
        assert!(!is_likely(&Pixels::Gray(GrayImage::new(55, 300))));
    }
}
