//! The filter for a picture that its decoder has already reduced.
//!
//! A pixel that stands for 8x8 is their mean, the first coefficient of their transform, and the
//! triangle of resizing blurs that mean once more. Variances of blurs add up: with a triangle that
//! is narrower by the variance of the mean, both together blur as much as the one triangle over the
//! whole picture would, so the low frequencies, which matter in a small picture, come out the same.
//! At a reduction by 4 or 2 a pixel keeps the frequencies that fit it nearly unchanged (its kernel
//! has at most a tenth of the variance of a mean), so the full triangle is right.

use fast_image_resize::{Filter, FilterType};

/// Widths are rounded to steps of this fraction of the full triangle.
const STEPS: u32 = 32;
/// The reduction whose pixels are means.
const MEAN: u32 = 8;

/// A triangle that makes one pixel out of `scale` pixels of a picture whose sides were divided
/// by `shrink`.
pub(super) fn after(shrink: u32, scale: f64) -> FilterType {
    if shrink < MEAN {
        return FilterType::Bilinear;
    }
    let shape: fn(f64) -> f64 = match steps(scale) {
        ..=23 => tent::<23>,
        24 => tent::<24>,
        25 => tent::<25>,
        26 => tent::<26>,
        27 => tent::<27>,
        28 => tent::<28>,
        29 => tent::<29>,
        30 => tent::<30>,
        31 => tent::<31>,
        _ => tent::<STEPS>,
    };
    Filter::new("narrow triangle", shape, 1.0).map_or(FilterType::Bilinear, FilterType::Custom)
}

/// Half the width of the triangle in steps; the full one has [`STEPS`].
fn steps(scale: f64) -> u32 {
    // The mean over one pixel has the variance 1/12, a triangle of half width w has w*w/6.
    let width = (1.0 - 0.5 / (scale * scale).max(1.0)).sqrt();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0.7 to 1")]
    let steps = (width * f64::from(STEPS)).round() as u32;
    steps
}

fn tent<const WIDTH: u32>(x: f64) -> f64 {
    (1.0 - x.abs() * f64::from(STEPS) / f64::from(WIDTH)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_is_left_to_shrink_the_narrower_the_triangle() {
        assert_eq!([1.0, 1.2, 1.465, 2.0, 3.0, 10.0].map(steps), [23, 26, 28, 30, 31, 32]);
        let half = tent::<24>(0.375) - 0.5;
        assert!(half.abs() < 1e-12 && tent::<24>(0.75) <= 0.0 && tent::<32>(0.75) > 0.2);
    }
}
