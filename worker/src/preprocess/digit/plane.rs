//! One channel of numbers and the few filters that the search for a digit needs.

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
        let kernel = |before: f32, here: f32, after: f32| (before + 2.0 * here + after) / 4.0;
        self.filtered(kernel).transposed().filtered(kernel).transposed()
    }

    /// The largest value within `radius` columns and rows.
    pub(super) fn dilated(&self, radius: usize) -> Self {
        self.below(radius, f32::max).transposed().below(radius, f32::max).transposed()
    }

    /// The smallest value within `radius` columns and rows.
    pub(super) fn eroded(&self, radius: usize) -> Self {
        self.below(radius, f32::min).transposed().below(radius, f32::min).transposed()
    }

    /// The standard deviation of the noise: of the differences between pixels and the mean of their
    /// neighbours.
    pub(super) fn grain(&self) -> f32 {
        let above = self.values.windows(3).map(|near| near[1] - 0.5 * (near[0] + near[2]));
        let above: Vec<f32> = above.collect();
        if above.is_empty() { 0.0 } else { median_and_spread(&above).1 / 1.5f32.sqrt() }
    }

    /// Means of blocks of `factor` pixels square.
    pub(super) fn shrunk(&self, factor: usize) -> Self {
        let (width, height) = (self.width.div_ceil(factor), self.height.div_ceil(factor));
        let mut values = Vec::with_capacity(width * height);
        for y in 0..height {
            for x in 0..width {
                let rows = y * factor..((y + 1) * factor).min(self.height);
                let columns = x * factor..((x + 1) * factor).min(self.width);
                let count = rows.len() * columns.len();
                let sum: f32 =
                    rows.flat_map(|row| &self.values[row * self.width..][columns.clone()]).sum();
                values.push(sum / count as f32);
            }
        }
        Self { width, height, values }
    }

    /// A plane of the given size from one made by [`Self::shrunk`]: linear between block centres.
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
        let mut values = Vec::with_capacity(self.values.len());
        for x in 0..self.width {
            values.extend(self.values[x..].iter().step_by(self.width));
        }
        Self { width: self.height, height: self.width, values }
    }

    fn filtered(&self, kernel: impl Fn(f32, f32, f32) -> f32) -> Self {
        let mut values = Vec::with_capacity(self.values.len());
        for row in self.values.chunks_exact(self.width) {
            for (x, &here) in row.iter().enumerate() {
                let before = row[x.saturating_sub(1)];
                let after = row[(x + 1).min(row.len() - 1)];
                values.push(kernel(before, here, after));
            }
        }
        Self { width: self.width, height: self.height, values }
    }

    /// Of each pixel and those up to `radius` rows above and below it, the one that `better` picks.
    ///
    /// Three picks for each pixel whatever the radius is: each window is the end of one block of rows
    /// and the beginning of the next (van Herk, "A fast algorithm for local minimum and maximum
    /// filters on rectangular and octagonal kernels", 1992).
    fn below(&self, radius: usize, better: impl Fn(f32, f32) -> f32) -> Self {
        let (width, height, window) = (self.width, self.height, 2 * radius + 1);
        let pick = |into: &mut [f32], other: &[f32]| {
            into.iter_mut().zip(other).for_each(|(value, &other)| *value = better(*value, other));
        };
        // From the first row of a block down to each, and from each down to the last one.
        let (mut down, mut up) = (self.values.clone(), self.values.clone());
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
        let mut values = Vec::with_capacity(self.values.len());
        for row in 0..height {
            let (first, last) = (row.saturating_sub(radius), (row + radius).min(height - 1));
            let start = values.len();
            // The block that the window ends in, unless it begins before the window does.
            if last / window * window >= first {
                values.extend_from_slice(&down[last * width..(last + 1) * width]);
            } else {
                values.extend_from_slice(&up[first * width..(first + 1) * width]);
                continue;
            }
            // The block that the window begins in, unless it goes on behind the window.
            let end = first / window * window + window - 1;
            if end <= last {
                pick(&mut values[start..], &up[first * width..(first + 1) * width]);
            }
        }
        Self { width, height, values }
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

/// The value below which `share` of the values lie.
pub(super) fn quantile(values: &mut [f32], share: f32) -> f32 {
    let last = values.len() - 1;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of last")]
    let rank = (share * last as f32).round() as usize;
    *values.select_nth_unstable_by(rank.min(last), f32::total_cmp).1
}

/// Median, and the standard deviation that a normal distribution with the same median absolute
/// deviation has: neither sees outliers.
pub(super) fn median_and_spread(values: &[f32]) -> (f32, f32) {
    let step = values.len().div_ceil(SAMPLE);
    let mut sorted: Vec<f32> = values.iter().step_by(step.max(1) | 1).copied().collect();
    let median = quantile(&mut sorted, 0.5);
    for value in &mut sorted {
        *value = (*value - median).abs();
    }
    (median, 1.4826 * quantile(&mut sorted, 0.5))
}
