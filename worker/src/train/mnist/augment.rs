//! New digits from old ones: what handwriting, cameras and cropping do to an image.
//!
//! Each image is warped by a random affine map and a smooth random displacement field, the "elastic
//! distortion" of Simard, Steinkraus and Platt (2003); the field is a cubic B-spline over a coarse
//! grid of normal draws, which has the smoothness of their Gaussian filter at a fraction of its
//! cost. Stroke width, focus and contrast vary too, since uploads are not scanned forms. The caller
//! supplies the generator: the same one draws the same image.

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

use super::dataset::{PIXELS, SIDE};

/// Pixels between the nodes of the displacement field.
const SPACING: usize = 7;
/// Nodes on a side: one beyond each border, as a cubic spline needs.
const NODES: usize = SIDE / SPACING + 3;
/// Standard deviation of a node, in pixels; the spline halves it.
const ELASTIC: f32 = 2.0;
const ROTATION: f32 = 0.2;
const SHEAR: f32 = 0.2;
const SCALE: f32 = 0.12;
const SHIFT: f32 = 2.0;

type Image = [f32; PIXELS];

/// Draws a variation of `image` (bytes, white on black) with values 0..=1; `strength` 0 changes
/// nothing, 1 is the full range.
pub(super) fn augment<R: Rng>(image: &[u8], strength: f32, rng: &mut R) -> Image {
    let mut ink = [0.0; PIXELS];
    for (to, from) in ink.iter_mut().zip(image) {
        *to = f32::from(*from) / 255.0;
    }
    let chance = |rng: &mut R, p: f32| rng.random::<f32>() < p * strength.min(1.0);
    if chance(rng, 0.3) {
        ink = stroke(&ink, rng.random_range(-0.6..0.8) * strength);
    }
    let map = Affine::draw(strength, rng);
    let (dx, dy) = (field(strength, rng), field(strength, rng));
    ink = warp(&ink, &map, &dx, &dy);
    if chance(rng, 0.15) {
        let amount = rng.random_range(0.0..0.7) * strength;
        ink = blend(&ink, &neighbourhood(&ink, 0.0, |sum, v| sum + v / 5.0), amount);
    }
    if chance(rng, 0.3) {
        let gain = 1.0 + rng.random_range(-0.3..0.3) * strength;
        for v in &mut ink {
            *v = (*v * gain).min(1.0);
        }
    }
    ink
}

/// An affine map about the centre, from output to input pixels.
struct Affine {
    matrix: [f32; 4],
    shift: [f32; 2],
}

impl Affine {
    fn draw<R: Rng>(strength: f32, rng: &mut R) -> Self {
        let mut within = |limit: f32| rng.random_range(-1.0..1.0f32) * limit * strength;
        let (sin, cos) = within(ROTATION).sin_cos();
        let (shear, wide, high) = (within(SHEAR), 1.0 + within(SCALE), 1.0 + within(SCALE));
        Self {
            matrix: [
                cos * wide,
                (shear * cos - sin) * wide,
                sin * high,
                (shear * sin + cos) * high,
            ],
            shift: [within(SHIFT), within(SHIFT)],
        }
    }
}

/// A smooth random field: one displacement in pixels for each pixel.
fn field<R: Rng>(strength: f32, rng: &mut R) -> Image {
    let mut columns = [[0.0; SIDE]; NODES];
    for row in &mut columns {
        let nodes: [f32; NODES] =
            std::array::from_fn(|_| rng.sample::<f32, _>(StandardNormal) * ELASTIC * strength);
        *row = std::array::from_fn(|x| {
            let weights = spline(x);
            (0..4).map(|k| weights[k] * nodes[x / SPACING + k]).sum()
        });
    }
    let mut out = [0.0; PIXELS];
    for (y, line) in out.chunks_exact_mut(SIDE).enumerate() {
        for (k, weight) in spline(y).into_iter().enumerate() {
            for (to, from) in line.iter_mut().zip(&columns[y / SPACING + k]) {
                *to += weight * from;
            }
        }
    }
    out
}

/// The four cubic B-spline weights of the nodes around position `at`.
fn spline(at: usize) -> [f32; 4] {
    let t = (at % SPACING) as f32 / SPACING as f32;
    let u = 1.0 - t;
    let inner = |s: f32| (4.0 - 6.0 * s * s + 3.0 * s * s * s) / 6.0;
    [u * u * u / 6.0, inner(t), inner(u), t * t * t / 6.0]
}

fn warp(ink: &Image, map: &Affine, dx: &Image, dy: &Image) -> Image {
    let centre = (SIDE - 1) as f32 / 2.0;
    let [xx, xy, yx, yy] = map.matrix;
    std::array::from_fn(|i| {
        let (x, y) = ((i % SIDE) as f32 - centre, (i / SIDE) as f32 - centre);
        let from_x = xx * x + xy * y + centre + map.shift[0] + dx[i];
        let from_y = yx * x + yy * y + centre + map.shift[1] + dy[i];
        bilinear(ink, from_x, from_y)
    })
}

/// The value between pixels; outside the image is background.
fn bilinear(ink: &Image, x: f32, y: f32) -> f32 {
    let last = (SIDE - 1) as f32;
    if !(x > -1.0 && y > -1.0 && x < last + 1.0 && y < last + 1.0) {
        return 0.0;
    }
    let (left, top) = (x.floor(), y.floor());
    let (tx, ty) = (x - left, y - top);
    let pixel = |x: f32, y: f32| {
        if x < 0.0 || y < 0.0 || x > last || y > last { 0.0 } else { ink[index(x, y)] }
    };
    let above = pixel(left, top) * (1.0 - tx) + pixel(left + 1.0, top) * tx;
    let below = pixel(left, top + 1.0) * (1.0 - tx) + pixel(left + 1.0, top + 1.0) * tx;
    above * (1.0 - ty) + below * ty
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 <= x, y < SIDE")]
fn index(x: f32, y: f32) -> usize {
    y as usize * SIDE + x as usize
}

/// Thicker strokes for `amount` > 0, thinner for `amount` < 0; 1 is a pixel on each side.
fn stroke(ink: &Image, amount: f32) -> Image {
    let extreme = if amount > 0.0 {
        neighbourhood(ink, 0.0, f32::max)
    } else {
        neighbourhood(ink, 1.0, f32::min)
    };
    blend(ink, &extreme, amount.abs())
}

/// Folds each pixel with its four neighbours; beyond the border is background.
fn neighbourhood(ink: &Image, start: f32, fold: impl Fn(f32, f32) -> f32) -> Image {
    std::array::from_fn(|i| {
        let (x, y) = (i % SIDE, i / SIDE);
        let left = if x > 0 { ink[i - 1] } else { 0.0 };
        let right = if x + 1 < SIDE { ink[i + 1] } else { 0.0 };
        let above = if y > 0 { ink[i - SIDE] } else { 0.0 };
        let below = if y + 1 < SIDE { ink[i + SIDE] } else { 0.0 };
        [ink[i], left, right, above, below].into_iter().fold(start, &fold)
    })
}

fn blend(from: &Image, to: &Image, amount: f32) -> Image {
    std::array::from_fn(|i| from[i] + (to[i] - from[i]) * amount)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};

    use super::*;

    /// A disc of radius 6 about the centre.
    fn disc() -> Vec<u8> {
        let far = |i: usize| {
            let (x, y) = ((i % SIDE) as f32 - 13.5, (i / SIDE) as f32 - 13.5);
            x * x + y * y > 36.0
        };
        (0..PIXELS).map(|i| if far(i) { 0 } else { 255 }).collect()
    }

    fn draw(strength: f32, seed: u64) -> Image {
        augment(&disc(), strength, &mut Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    #[test]
    fn strength_zero_returns_the_image() {
        let expected = disc();
        for (drawn, byte) in draw(0.0, 1).iter().zip(expected) {
            assert!((drawn - f32::from(byte) / 255.0).abs() < 1e-4);
        }
    }

    #[test]
    fn the_generator_alone_decides() {
        let bits = |seed| draw(1.0, seed).map(f32::to_bits);
        assert_eq!(bits(7), bits(7));
        assert_ne!(bits(7), bits(8));
    }

    #[test]
    fn spline_weights_are_a_partition_of_unity() {
        for at in 0..SIDE {
            let sum: f32 = spline(at).iter().sum();
            assert!((sum - 1.0).abs() < 1e-6, "{at}: {sum}");
        }
    }

    #[test]
    fn thickening_adds_ink_and_thinning_takes_it() {
        let ink: Image = std::array::from_fn(|i| f32::from(disc()[i]) / 255.0);
        let sum = |image: &Image| image.iter().sum::<f32>();
        assert!(sum(&stroke(&ink, 0.5)) > sum(&ink) + 1.0);
        assert!(sum(&stroke(&ink, -0.5)) < sum(&ink) - 1.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn values_stay_ink_and_the_digit_stays_in_the_image(seed in any::<u64>()) {
            let drawn = draw(1.0, seed);
            prop_assert!(drawn.iter().all(|v| (0.0..=1.0).contains(v)));
            let (before, after) = (113.0, drawn.iter().sum::<f32>());
            prop_assert!(after > before * 0.3 && after < before * 2.5, "ink {before} -> {after}");
        }
    }
}
