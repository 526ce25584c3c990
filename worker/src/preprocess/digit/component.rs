//! Connected ink and its shape: whether it can be a digit at all.
//!
//! A digit is one stroke or a few: thin for its length, but not as thin as the ruled lines of a
//! sheet; neither a box nor a block; and it seldom leaves the view. Printed lines, frames and the
//! edges of sheets and tables fail at least one of these tests.

use super::plane::{Plane, exceeds};

/// Ink shorter than this, in pixels of the view, is a speck.
const SHORTEST: usize = 5;
/// Maximum width of a stroke, as a share of the digit's longest side.
const WIDEST: f32 = 0.5;
/// Ink that leaves the view and is thinner than this share of its length is a ruled line.
const RULING: f32 = 0.04;
/// A box whose outline is wider than this share of its side is filled.
const SOLID: f32 = 0.1;
/// A horizontal line is more than this many times as wide as it is high; a digit never is.
const LYING: usize = 3;
/// The outline of a box fills more than this share of its bounding rectangle, a round digit 0.79.
const BOXY: f32 = 0.87;
/// Below this size, in pixels of the view, ink has no outline by which to recognise a box.
const SMALLEST_BOX: f32 = 6.0;
/// Rectangles with a larger aspect ratio are strokes, not boxes.
const LONGEST_BOX: f32 = 2.5;
/// Tilts at which to look for a box, as the tangent of the angle.
const TILTS: [f32; 7] = [-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3];

/// Columns and rows; `right` and `bottom` are exclusive.
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

    /// Grown by `margin` pixels on each side, clipped to a view of this size.
    pub(super) fn grown(&self, margin: usize, (width, height): (usize, usize)) -> Self {
        Self {
            left: self.left.saturating_sub(margin),
            top: self.top.saturating_sub(margin),
            right: (self.right + margin).min(width),
            bottom: (self.bottom + margin).min(height),
        }
    }

    /// The longer side.
    pub(super) fn longest(&self) -> usize {
        self.width().max(self.height())
    }

    fn of_pixel(x: usize, y: usize) -> Self {
        Self { left: x, top: y, right: x + 1, bottom: y + 1 }
    }

    pub(super) fn join(&mut self, other: Self) {
        self.left = self.left.min(other.left);
        self.top = self.top.min(other.top);
        self.right = self.right.max(other.right);
        self.bottom = self.bottom.max(other.bottom);
    }

    /// Pixels between the two, zero when they overlap.
    pub(super) fn gap(&self, other: &Self) -> usize {
        let across =
            other.left.saturating_sub(self.right).max(self.left.saturating_sub(other.right));
        let down = other.top.saturating_sub(self.bottom).max(self.top.saturating_sub(other.bottom));
        across.max(down)
    }

    /// Whether `other` lies inside without touching a side.
    pub(super) fn surrounds(&self, other: &Self) -> bool {
        self.left < other.left
            && self.top < other.top
            && self.right > other.right
            && self.bottom > other.bottom
    }
}

/// A connected group of inked pixels with its measurements.
#[derive(Debug)]
pub(super) struct Component {
    /// Indices into the plane.
    pub(super) pixels: Vec<usize>,
    pub(super) bounds: Bounds,
    /// Sum of the ink.
    pub(super) mass: f32,
    /// The darkest ink of any pixel.
    darkest: f32,
    /// Pixels on the border of the view.
    pub(super) on_border: usize,
    /// Number of pixel sides that face a pixel outside the component.
    outline: usize,
    /// The view's size.
    view: (usize, usize),
}

/// Groups of connected pixels (8 neighbours) above `end` that contain a pixel above `seed`.
pub(super) fn components(amount: &Plane, end: f32, seed: f32) -> Vec<Component> {
    let mut is_open = vec![false; amount.values.len()];
    // Most rows of most pictures have no ink.
    let inked: Vec<usize> = (0..amount.height).filter(|&y| exceeds(amount.row(y), end)).collect();
    for &y in &inked {
        let open = is_open[y * amount.width..].iter_mut().zip(amount.row(y));
        open.for_each(|(is_open, &value)| *is_open = value > end);
    }
    let mut found = Vec::new();
    for y in inked {
        for start in y * amount.width..(y + 1) * amount.width {
            if is_open[start] {
                let component = gather(amount, &mut is_open, start, end);
                if component.darkest > seed {
                    found.push(component);
                }
            }
        }
    }
    found
}

/// Flood fill; marks the pixels that it takes as no longer open.
fn gather(amount: &Plane, is_open: &mut [bool], start: usize, end: f32) -> Component {
    let (width, height) = (amount.width, amount.height);
    let mut part = Component {
        pixels: vec![start],
        bounds: Bounds::of_pixel(start % width, start / width),
        mass: 0.0,
        darkest: 0.0,
        on_border: 0,
        outline: 0,
        view: (width, height),
    };
    let is_ink = |at: usize| amount.values[at] > end;
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
        let is_bare = [
            x == 0 || !is_ink(at - 1),
            y == 0 || !is_ink(at - width),
            x + 1 == width || !is_ink(at + 1),
            y + 1 == height || !is_ink(at + width),
        ];
        part.outline += is_bare.into_iter().map(usize::from).sum::<usize>();
        let (left, right) = (x.saturating_sub(1), (x + 2).min(width));
        for row in y.saturating_sub(1)..(y + 2).min(height) {
            let start = row * width + left;
            let near = &mut is_open[start..row * width + right];
            if let [false, false, false] = near {
                continue;
            }
            for (step, is_open) in near.iter_mut().enumerate() {
                if std::mem::take(is_open) {
                    part.pixels.push(start + step);
                }
            }
        }
    }
    part
}

impl Component {
    /// Twice the area over the length of the outline: the width of a long line.
    pub(super) fn stroke_width(&self) -> f32 {
        // The pixel steps of a slanted line exceed its length: by 4 / pi over all directions.
        2.0 * self.pixels.len() as f32 / (self.outline as f32 * std::f32::consts::FRAC_PI_4)
    }

    /// The share of its outline where a channel rises from ink to paper by at least `step` within
    /// `reach` pixels. At the edge of a shadow or at the border of the view, no channel does.
    pub(super) fn support(&self, levels: &[Plane], reach: usize, step: f32) -> f32 {
        let (width, height) = self.view;
        let mut is_own = vec![false; width * height];
        self.pixels.iter().for_each(|&at| is_own[at] = true);
        let (mut shown, mut all) = (0usize, 0usize);
        for &at in &self.pixels {
            let (x, y) = (at % width, at / width);
            // Pixels behind and ahead in each direction, and the stride from one to the next.
            let directions = [
                (x, width - 1 - x, 1isize),
                (width - 1 - x, x, -1),
                (y, height - 1 - y, width.cast_signed()),
                (height - 1 - y, y, -width.cast_signed()),
            ];
            for (behind, ahead, stride) in directions {
                let further = |steps: isize| at.wrapping_add_signed(stride * steps);
                if ahead > 0 && is_own[further(1)] {
                    continue;
                }
                all += 1;
                let inside = reach.min(behind).cast_signed();
                let outside = reach.min(ahead).cast_signed();
                shown += usize::from(levels.iter().any(|level| {
                    let value = |steps: isize| level.values[further(steps)];
                    let ink = (-inside..=0).map(value).fold(f32::MAX, f32::min);
                    let paper = (1..=outside).map(value).fold(f32::MIN, f32::max);
                    paper - ink >= step
                }));
            }
        }
        shown as f32 / all.max(1) as f32
    }

    /// Half its width at the widest place: the largest distance in steps from one of its pixels to
    /// the nearest pixel outside.
    ///
    /// The area beyond the view is unknown and does not count as outside.
    pub(super) fn widest(&self) -> f32 {
        let mut steps = vec![0.0f32; self.view.0 * self.view.1];
        self.pixels.iter().for_each(|&at| steps[at] = f32::MAX);
        let mut order = self.pixels.clone();
        order.sort_unstable();
        // One pass from the top left and one from the bottom right (Borgefors, "Distance
        // transformations in digital images", 1986).
        for &at in &order {
            steps[at] = self.nearer(&steps, at, 1);
        }
        for &at in order.iter().rev() {
            steps[at] = self.nearer(&steps, at, -1);
        }
        self.pixels.iter().map(|&at| steps[at]).fold(0.0, f32::max)
    }

    /// Fewest steps from `at`, given those of the neighbours before it (`sign` 1) or after it (-1).
    fn nearer(&self, steps: &[f32], at: usize, sign: isize) -> f32 {
        const SLANTED: f32 = std::f32::consts::SQRT_2;
        let (width, height) = self.view;
        let (x, y) = (at % width, at / width);
        let neighbours = [(-1, 0, 1.0), (0, -1, 1.0), (-1, -1, SLANTED), (1, -1, SLANTED)];
        let over = neighbours.into_iter().filter_map(|(dx, dy, far)| {
            let x = x.checked_add_signed(sign * dx).filter(|&x| x < width)?;
            let y = y.checked_add_signed(sign * dy).filter(|&y| y < height)?;
            Some(steps[y * width + x] + far)
        });
        over.fold(steps[at], f32::min)
    }

    /// How many sides of the view it touches: of left and right, and of top and bottom.
    fn sides(&self) -> [usize; 2] {
        let (width, height) = self.view;
        [
            usize::from(self.bounds.left == 0) + usize::from(self.bounds.right == width),
            usize::from(self.bounds.top == 0) + usize::from(self.bounds.bottom == height),
        ]
    }

    /// Whether it leaves the view on two opposite sides.
    pub(super) fn spans(&self) -> bool {
        self.sides().contains(&2)
    }

    /// Whether it fills the view: both from side to side and from top to bottom, or in one
    /// direction without touching the borders of the other.
    pub(super) fn fills(&self) -> bool {
        let is_all = |length: usize, of: usize| length * 10 >= of * 9;
        let is_full =
            [is_all(self.bounds.width(), self.view.0), is_all(self.bounds.height(), self.view.1)];
        match (is_full, self.sides()) {
            ([true, true], _) => true,
            ([true, false], [_, free]) | ([false, true], [free, _]) => free == 0,
            ([false, false], _) => false,
        }
    }

    /// Whether it runs along the border, like the edge of a sheet.
    pub(super) fn is_edge(&self) -> bool {
        let border = 2 * (self.view.0 + self.view.1);
        self.on_border * 20 > border || self.on_border > self.pixels.len() / 8
    }

    /// Whether it has the proportions of a digit's strokes.
    pub(super) fn is_stroke(&self) -> bool {
        self.bounds.longest() >= SHORTEST
            && self.thickness() <= WIDEST
            && !self.is_ruling()
            && !self.is_lying()
    }

    /// Whether it is a thin line through the view, or a grid of such lines.
    pub(super) fn is_ruling(&self) -> bool {
        self.spans() && self.thickness() < RULING
    }

    /// Whether it is a filled sheet and not just a frame.
    pub(super) fn is_solid(&self) -> bool {
        self.thickness() > SOLID
    }

    /// Width of its strokes as a share of its longest side.
    fn thickness(&self) -> f32 {
        self.stroke_width() / self.bounds.longest() as f32
    }

    /// Whether it is a horizontal line.
    pub(super) fn is_lying(&self) -> bool {
        self.bounds.width() > LYING * self.bounds.height()
    }

    /// Whether its outline is a rectangle: a frame, a note, a sheet of paper.
    pub(super) fn is_box(&self) -> bool {
        if (self.bounds.longest() as f32) < SMALLEST_BOX {
            return false;
        }
        let rows = self.rows();
        let filled = rows.iter().map(|row| row.right - row.left + 1.0).sum::<f32>();
        TILTS.into_iter().any(|tilt| {
            let grown = (1.0 + tilt * tilt).sqrt();
            let across = extent(rows.iter().flat_map(|row| row.ends().map(|x| x + tilt * row.y)));
            let down = extent(rows.iter().flat_map(|row| row.ends().map(|x| row.y - tilt * x)));
            let (across, down) = (across / grown + 1.0, down / grown + 1.0);
            let (longer, shorter) = (across.max(down), across.min(down));
            shorter >= SMALLEST_BOX
                && filled > BOXY * across * down
                && longer < LONGEST_BOX * shorter
        })
    }

    /// Its first and last column in each row.
    fn rows(&self) -> Vec<Row> {
        let top = self.bounds.top;
        let row = |at: usize| Row { y: at as f32, left: f32::MAX, right: 0.0 };
        let mut rows: Vec<Row> = (0..self.bounds.height()).map(row).collect();
        for &at in &self.pixels {
            let (x, row) = ((at % self.view.0) as f32, &mut rows[at / self.view.0 - top]);
            (row.left, row.right) = (row.left.min(x), row.right.max(x));
        }
        rows
    }

    /// Whether it runs around one of `others` on all four sides, as a frame does.
    ///
    /// Takes time proportional to the number of its pixels plus the number of others, not to
    /// their product.
    pub(super) fn encloses(&self, others: &[Bounds]) -> bool {
        let is_inside = |inner: &&Bounds| {
            self.bounds.surrounds(inner) && 5 * inner.longest() >= self.bounds.longest()
        };
        let mut inside = others.iter().filter(is_inside).peekable();
        if inside.peek().is_none() {
            return false;
        }
        let (mut rows, mut columns) =
            (vec![Extent::NONE; self.bounds.height()], vec![Extent::NONE; self.bounds.width()]);
        for &at in &self.pixels {
            let (x, y) = (at % self.view.0, at / self.view.0);
            rows[y - self.bounds.top].add(x);
            columns[x - self.bounds.left].add(y);
        }
        inside.any(|inner| {
            let (x, y) = (inner.left.midpoint(inner.right), inner.top.midpoint(inner.bottom));
            rows[y - self.bounds.top].surrounds(inner.left, inner.right)
                && columns[x - self.bounds.left].surrounds(inner.top, inner.bottom)
        })
    }
}

/// The first and the last pixel of a component in a row or a column.
#[derive(Debug, Clone, Copy)]
struct Extent {
    first: usize,
    last: usize,
}

impl Extent {
    const NONE: Self = Self { first: usize::MAX, last: 0 };

    fn add(&mut self, at: usize) {
        (self.first, self.last) = (self.first.min(at), self.last.max(at));
    }

    /// Whether there are pixels before `start` and at or after `end`.
    fn surrounds(self, start: usize, end: usize) -> bool {
        self.first < start && self.last >= end
    }
}

/// The outline of a component in one row of its bounds.
#[derive(Debug, Clone, Copy)]
struct Row {
    y: f32,
    left: f32,
    right: f32,
}

impl Row {
    fn ends(&self) -> [f32; 2] {
        [self.left, self.right]
    }
}

/// The difference between the largest and the smallest of some numbers.
fn extent(values: impl Iterator<Item = f32>) -> f32 {
    let (low, high) =
        values.fold((f32::MAX, f32::MIN), |(low, high), at| (low.min(at), high.max(at)));
    high - low
}
