//! One channel of numbers and the few filters that the search for a digit needs.

/// Rows of values.
#[derive(Debug, Clone)]
pub(super) struct Plane {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) values: Vec<f32>,
}

impl Plane {
    /// Weights 1-2-1 along both axes: takes the edge off sensor noise.
    pub(super) fn softened(&self) -> Self {
        let kernel = |before: f32, here: f32, after: f32| (before + 2.0 * here + after) / 4.0;
        self.filtered(kernel).transposed().filtered(kernel).transposed()
    }

    /// The largest value within `radius` columns and rows.
    pub(super) fn dilated(&self, radius: usize) -> Self {
        let largest = |window: &[f32]| window.iter().copied().fold(f32::MIN, f32::max);
        self.windowed(radius, largest).transposed().windowed(radius, largest).transposed()
    }

    /// The smallest value within `radius` columns and rows.
    pub(super) fn eroded(&self, radius: usize) -> Self {
        let smallest = |window: &[f32]| window.iter().copied().fold(f32::MAX, f32::min);
        self.windowed(radius, smallest).transposed().windowed(radius, smallest).transposed()
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

    /// The value between block centres of a plane made by [`Self::shrunk`].
    pub(super) fn at_shrunk(&self, x: usize, y: usize, factor: usize) -> f32 {
        let (left, right, across) = neighbours(x, factor, self.width);
        let (above, below, down) = neighbours(y, factor, self.height);
        let row = |y: usize| {
            let row = &self.values[y * self.width..(y + 1) * self.width];
            row[left] + (row[right] - row[left]) * across
        };
        row(above) + (row(below) - row(above)) * down
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

    fn windowed(&self, radius: usize, reduce: impl Fn(&[f32]) -> f32) -> Self {
        let mut values = Vec::with_capacity(self.values.len());
        for row in self.values.chunks_exact(self.width) {
            for x in 0..row.len() {
                values
                    .push(reduce(&row[x.saturating_sub(radius)..(x + radius + 1).min(row.len())]));
            }
        }
        Self { width: self.width, height: self.height, values }
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
    let mut sorted = values.to_vec();
    let median = quantile(&mut sorted, 0.5);
    for value in &mut sorted {
        *value = (*value - median).abs();
    }
    (median, 1.4826 * quantile(&mut sorted, 0.5))
}
