//! One channel of numbers and the few filters that the search for a digit needs.

use super::component::Bounds;

/// Sample size that is enough to estimate the median.
const SAMPLE: usize = 4096;

/// Rows of values.
#[derive(Debug, Clone)]
pub(super) struct Plane {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) values: Vec<f32>,
}

impl Plane {
    /// The plane with light and dark swapped.
    pub(super) fn negative(&self) -> Self {
        Self { values: self.values.iter().map(|value| -value).collect(), ..*self }
    }

    /// Smoothed with weights 1-2-1 along both axes, which dampens sensor noise.
    pub(super) fn softened(&self) -> Self {
        let mut across = Vec::with_capacity(self.values.len());
        for row in self.rows() {
            let last = row.len() - 1;
            across.push(smooth(row[0], row[0], row[1.min(last)]));
            across.extend(row.windows(3).map(|near| smooth(near[0], near[1], near[2])));
            if last > 0 {
                across.push(smooth(row[last - 1], row[last], row[last]));
            }
        }
        let across = Self { values: across, ..*self };
        let mut values = Vec::with_capacity(self.values.len());
        for y in 0..self.height {
            let above = across.row(y.saturating_sub(1));
            let below = across.row((y + 1).min(self.height - 1));
            let near = above.iter().zip(across.row(y)).zip(below);
            values.extend(near.map(|((above, here), below)| smooth(*above, *here, *below)));
        }
        Self { values, ..*self }
    }

    /// The largest value within `radius` columns and rows.
    pub(super) fn dilated(&self, radius: usize) -> Self {
        self.clone().below(radius, larger).transposed().below(radius, larger).transposed()
    }

    /// Without anything narrower than `2 * radius + 1`: eroded, then dilated.
    pub(super) fn opened(&self, radius: usize) -> Self {
        // The order of rows and columns does not matter, which saves half of the transpositions.
        let eroded = self.clone().below(radius, smaller).transposed().below(radius, smaller);
        eroded.below(radius, larger).transposed().below(radius, larger)
    }

    /// Dilated by `radius`, then eroded by `back`.
    pub(super) fn closed(&self, radius: usize, back: usize) -> Self {
        let dilated = self.clone().below(radius, larger).transposed().below(radius, larger);
        dilated.below(back, smaller).transposed().below(back, smaller)
    }

    /// The standard deviation of the noise, from the differences between pixels and the mean of
    /// their neighbours.
    pub(super) fn grain(&self) -> f32 {
        let Some(count) = self.values.len().checked_sub(2).filter(|&count| count > 0) else {
            return 0.0;
        };
        let above = self.values.windows(3).step_by(sample_step(count));
        let above = above.map(|near| near[1] - 0.5 * (near[0] + near[2])).collect();
        median_and_spread_of(above).1 / 1.5f32.sqrt()
    }

    /// The part within `bounds`.
    pub(super) fn part(&self, bounds: Bounds) -> Self {
        let rows = (bounds.top..bounds.bottom).map(|y| &self.row(y)[bounds.left..bounds.right]);
        let (width, height) = (bounds.width(), bounds.height());
        Self { width, height, values: rows.collect::<Vec<_>>().concat() }
    }

    /// A plane of the given size that equals this one within `bounds` and is zero elsewhere.
    pub(super) fn amid(&self, (width, height): (usize, usize), bounds: Bounds) -> Self {
        let mut values = vec![0.0; width * height];
        let rows = values.chunks_exact_mut(width).skip(bounds.top);
        for (row, part) in rows.zip(self.rows()) {
            row[bounds.left..bounds.right].copy_from_slice(part);
        }
        Self { width, height, values }
    }

    pub(super) fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.width)
    }

    pub(super) fn row(&self, y: usize) -> &[f32] {
        &self.values[y * self.width..(y + 1) * self.width]
    }

    /// Means of blocks of `factor` by `factor` pixels.
    pub(super) fn shrunk(&self, factor: usize) -> Self {
        let (width, height) = (self.width.div_ceil(factor), self.height.div_ceil(factor));
        let mut values = Vec::with_capacity(width * height);
        for block in self.values.chunks(factor * self.width) {
            let start = values.len();
            values.resize(start + width, 0.0);
            let sums = &mut values[start..];
            for row in block.chunks_exact(self.width) {
                for (sum, pixels) in sums.iter_mut().zip(row.chunks(factor)) {
                    *sum = pixels.iter().fold(*sum, |sum, pixel| sum + pixel);
                }
            }
            let down = block.len() / self.width;
            for (x, sum) in sums.iter_mut().enumerate() {
                *sum /= (down * factor.min(self.width - x * factor)) as f32;
            }
        }
        Self { width, height, values }
    }

    /// Enlarges a plane made by [`Self::shrunk`] to the given size, linearly between block centres.
    pub(super) fn grown(&self, width: usize, height: usize, factor: usize) -> Self {
        if factor == 1 {
            return self.clone();
        }
        let columns: Vec<_> = (0..width).map(|x| neighbours(x, factor, self.width)).collect();
        let mut values = Vec::with_capacity(width * height);
        for y in 0..height {
            let (above, below, down) = neighbours(y, factor, self.height);
            let row = |y: usize| &self.values[y * self.width..(y + 1) * self.width];
            let between: Vec<f32> =
                row(above).iter().zip(row(below)).map(|(a, b)| a + (b - a) * down).collect();
            values.extend(columns.iter().map(|&(left, right, across)| {
                between[left] + (between[right] - between[left]) * across
            }));
        }
        Self { width, height, values }
    }

    fn transposed(&self) -> Self {
        /// Rows copied at a time: as many as one cache line holds values of a column.
        const BAND: usize = 16;
        let (width, height) = (self.width, self.height);
        let mut values = vec![0.0; self.values.len()];
        for top in (0..height).step_by(BAND) {
            let band = top..(top + BAND).min(height);
            for (x, column) in values.chunks_exact_mut(height).enumerate() {
                let rows = column[band.clone()].iter_mut().zip(band.clone());
                rows.for_each(|(value, y)| *value = self.values[y * width + x]);
            }
        }
        Self { width: height, height: width, values }
    }

    /// For each pixel, the value that `better` picks of it and those up to `radius` rows above
    /// and below.
    ///
    /// Takes three picks per pixel, whatever the radius: each window is the end of one block of
    /// rows and the beginning of the next (van Herk, "A fast algorithm for local minimum and
    /// maximum filters on rectangular and octagonal kernels", 1992).
    fn below(self, radius: usize, better: impl Fn(f32, f32) -> f32) -> Self {
        let (width, height, window) = (self.width, self.height, 2 * radius + 1);
        let pick = |into: &mut [f32], other: &[f32]| {
            into.iter_mut().zip(other).for_each(|(value, &other)| *value = better(*value, other));
        };
        // Picks from the first row of a block down to each row, and from each row down to the last.
        let (mut down, mut up) = (self.values.clone(), self.values);
        for row in 1..height {
            if row % window != 0 {
                let (above, here) = down.split_at_mut(row * width);
                pick(&mut here[..width], &above[(row - 1) * width..]);
            }
        }
        for row in (0..height.saturating_sub(1)).rev() {
            if (row + 1) % window != 0 {
                let (here, below) = up.split_at_mut((row + 1) * width);
                pick(&mut here[row * width..], &below[..width]);
            }
        }
        // No later window ends in a row that is replaced here.
        for row in 0..height {
            let (first, last) = (row.saturating_sub(radius), (row + radius).min(height - 1));
            let begins = &up[first * width..(first + 1) * width];
            let here = row * width..(row + 1) * width;
            // The block that the window ends in, unless it begins before the window does.
            if last / window * window < first {
                down[here].copy_from_slice(begins);
                continue;
            }
            down.copy_within(last * width..(last + 1) * width, here.start);
            // The block that the window begins in, unless it continues past the window.
            if first / window * window + window - 1 <= last {
                pick(&mut down[here], begins);
            }
        }
        Self { width, height, values: down }
    }
}

/// The two blocks whose centres enclose pixel `at`, and how far it is from the first.
fn neighbours(at: usize, factor: usize, blocks: usize) -> (usize, usize, f32) {
    let position = (at as f32 + 0.5) / factor as f32 - 0.5;
    let first = (at + factor.div_ceil(2)) / factor;
    let first = first.saturating_sub(1).min(blocks - 1);
    let second = (first + 1).min(blocks - 1);
    (first, second, (position - first as f32).clamp(0.0, 1.0))
}

fn smooth(before: f32, here: f32, after: f32) -> f32 {
    (before + 2.0 * here + after) / 4.0
}

/// Like `f32::max` for values other than NaN, in one instruction.
fn larger(one: f32, other: f32) -> f32 {
    if one > other { one } else { other }
}

/// Like `f32::min` for values other than NaN, in one instruction.
fn smaller(one: f32, other: f32) -> f32 {
    if one < other { one } else { other }
}

/// The value below which `share` of the values lie.
pub(super) fn quantile(values: &[f32], share: f32) -> f32 {
    // Integers are compared in one instruction.
    let mut ordered: Vec<i32> = values.iter().map(|value| swapped(value.to_bits())).collect();
    let rank = rank(values.len(), share);
    let found = *ordered.select_nth_unstable(rank).1;
    f32::from_bits(swapped(found.cast_unsigned()).cast_unsigned())
}

/// Maps the bits of a float to an integer that orders the same way, and back;
/// see [`f32::total_cmp`].
fn swapped(bits: u32) -> i32 {
    let bits = bits.cast_signed();
    bits ^ ((bits >> 31).cast_unsigned() >> 1).cast_signed()
}

/// Whether any value is above `level`. Most are not, so several at a time are checked without
/// a branch.
pub(super) fn exceeds(values: &[f32], level: f32) -> bool {
    let (many, rest) = values.as_chunks::<16>();
    let is_any =
        |values: &[f32]| values.iter().fold(0, |any, &value| any | u8::from(value > level)) > 0;
    many.iter().any(|values| is_any(values)) || is_any(rest)
}

/// The index in sorted order of the value below which `share` of `count` values lie.
fn rank(count: usize, share: f32) -> usize {
    let last = count - 1;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of last")]
    let rank = (share * last as f32).round() as usize;
    rank.min(last)
}

/// Like [`quantile`], for a share near 1: keeps only the few largest values.
pub(super) fn high_quantile(values: &[f32], share: f32) -> f32 {
    let kept = values.len() - rank(values.len(), share);
    let mut largest: Vec<f32> = values[..kept].to_vec();
    largest.sort_unstable_by(f32::total_cmp);
    for values in values[kept..].chunks(64) {
        if !exceeds(values, largest[0]) {
            continue;
        }
        for &value in values {
            if value > largest[0] {
                let place = largest.partition_point(|kept| *kept < value);
                largest.copy_within(1..place, 0);
                largest[place - 1] = value;
            }
        }
    }
    largest[0]
}

/// The step between the values that a sample of `count` values takes.
fn sample_step(count: usize) -> usize {
    count.div_ceil(SAMPLE).max(1) | 1
}

/// Median, and the standard deviation of a normal distribution with the same median absolute
/// deviation. Outliers affect neither.
pub(super) fn median_and_spread(values: &[f32]) -> (f32, f32) {
    median_and_spread_of(values.iter().step_by(sample_step(values.len())).copied().collect())
}

fn median_and_spread_of(mut values: Vec<f32>) -> (f32, f32) {
    let median = quantile(&values, 0.5);
    for value in &mut values {
        *value = (*value - median).abs();
    }
    (median, 1.4826 * quantile(&values, 0.5))
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use super::*;

    /// Pseudo-random values, the same each time.
    fn plane(width: usize, height: usize) -> Plane {
        let mut state = u32::try_from(width * 1000 + height).expect("a small plane");
        let values = (0..width * height).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from(u16::try_from(state >> 20).expect("twelve bits"))
        });
        Plane { width, height, values: values.collect() }
    }

    const SIZES: [(usize, usize); 7] =
        [(1, 1), (1, 9), (9, 1), (2, 3), (16, 16), (17, 40), (50, 33)];

    /// Reference for the filters over windows, pixel by pixel.
    fn windows(of: &Plane, radius: usize, better: fn(f32, f32) -> f32) -> Plane {
        let pixel = |at: usize| {
            let (x, y) = (at % of.width, at / of.width);
            let rows = y.saturating_sub(radius)..(y + radius + 1).min(of.height);
            let columns = x.saturating_sub(radius)..(x + radius + 1).min(of.width);
            let near = rows.flat_map(|row| &of.values[row * of.width..][columns.clone()]);
            near.copied().reduce(better).expect("the pixel itself")
        };
        Plane { values: (0..of.values.len()).map(pixel).collect(), ..*of }
    }

    #[test]
    fn filters_over_windows_take_the_best_of_each_window() {
        for (width, height) in SIZES {
            let plane = plane(width, height);
            for (radius, back) in [(0, 2), (1, 1), (2, 4), (7, 7), (60, 62)] {
                let (dilated, eroded) =
                    (windows(&plane, radius, f32::max), windows(&plane, radius, f32::min));
                let what = format!("{width}x{height}, {radius}");
                assert_eq!(plane.dilated(radius).values, dilated.values, "{what}");
                let closed = windows(&dilated, back, f32::min);
                assert_eq!(plane.closed(radius, back).values, closed.values, "{what}");
                let opened = windows(&eroded, radius, f32::max);
                assert_eq!(plane.opened(radius).values, opened.values, "{what}");
            }
        }
    }

    #[test]
    fn blocks_are_means_also_at_the_far_borders() {
        let plane = plane(7, 5);
        let small = plane.shrunk(2);
        assert_eq!((small.width, small.height), (4, 3));
        let of = |x: usize, y: usize| plane.values[y * 7 + x];
        let first = (of(0, 0) + of(1, 0) + of(0, 1) + of(1, 1)) / 4.0;
        let expected = vec![first, of(6, 0).midpoint(of(6, 1)), of(6, 4)];
        assert_eq!([0, 3, 11].map(|at| small.values[at]).to_vec(), expected);
    }

    #[test]
    fn noise_is_smoothed_and_an_even_plane_stays() {
        for (width, height) in SIZES {
            let even = Plane { width, height, values: vec![3.0; width * height] };
            assert_eq!(even.softened().values, even.values, "{width}x{height}");
        }
        let mut spark = Plane { width: 3, height: 3, values: vec![0.0; 9] };
        spark.values[4] = 16.0;
        assert_eq!(spark.softened().values, [1.0, 2.0, 1.0, 2.0, 4.0, 2.0, 1.0, 2.0, 1.0]);
    }

    #[test]
    fn a_high_quantile_is_that_of_all_values() {
        for (width, height) in SIZES {
            let values = plane(width, height).values;
            for share in [0.5, 0.9, 0.99, 1.0] {
                let (found, expected) = (high_quantile(&values, share), quantile(&values, share));
                assert_eq!(found.total_cmp(&expected), Ordering::Equal);
            }
        }
    }

    #[test]
    fn a_quantile_is_the_value_at_its_place_in_the_total_order() {
        let odd =
            [f32::NAN, -0.0, 0.0, -1.5, f32::NEG_INFINITY, 2.0, -f32::NAN, f32::INFINITY, 1e-40];
        for values in [odd.to_vec(), plane(17, 40).values] {
            let mut sorted = values.clone();
            sorted.sort_by(f32::total_cmp);
            for share in [0.0, 0.3, 0.5, 1.0] {
                let (found, expected) =
                    (quantile(&values, share), sorted[rank(values.len(), share)]);
                assert_eq!(found.to_bits(), expected.to_bits(), "{share}");
            }
        }
    }

    #[test]
    fn whatever_lies_above_a_level_is_seen_wherever_it_is() {
        for length in [0, 1, 15, 16, 17, 64, 70] {
            let mut values = vec![1.0; length];
            assert!(!exceeds(&values, 1.0));
            for at in 0..length {
                values[at] = 2.0;
                assert!(exceeds(&values, 1.0), "{at} of {length}");
                values[at] = 1.0;
            }
        }
    }

    #[test]
    fn a_part_that_is_put_back_leaves_zero_around_it() {
        let whole = plane(17, 40);
        let bounds = Bounds { left: 3, top: 5, right: 17, bottom: 9 };
        let back = whole.part(bounds).amid((17, 40), bounds);
        let is_inside = |at: usize| at % 17 >= 3 && (5..9).contains(&(at / 17));
        let expected = (0..17 * 40).map(|at| if is_inside(at) { whole.values[at] } else { 0.0 });
        assert_eq!(back.values, expected.collect::<Vec<_>>());
    }
}
