//! EXIF orientation as geometry: where a box of the upright picture lies in the stored pixels.

use image::metadata::Orientation;

/// From upright to stored: optionally mirrors left-right and top-bottom, then optionally swaps
/// the axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "eight orientations are three choices")]
pub(super) struct Turn {
    pub(super) mirror_x: bool,
    pub(super) mirror_y: bool,
    pub(super) transpose: bool,
}

/// A rectangle with fractional borders.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Region {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Turn {
    /// The inverse of what `orientation` does to the stored pixels.
    pub(super) fn of(orientation: Orientation) -> Self {
        let (mirror_x, mirror_y, transpose) = match orientation {
            Orientation::NoTransforms => (false, false, false),
            Orientation::FlipHorizontal => (true, false, false),
            Orientation::FlipVertical => (false, true, false),
            Orientation::Rotate180 => (true, true, false),
            Orientation::Rotate90 => (true, false, true),
            Orientation::Rotate270 => (false, true, true),
            Orientation::Rotate90FlipH => (false, false, true),
            Orientation::Rotate270FlipH => (true, true, true),
        };
        Self { mirror_x, mirror_y, transpose }
    }

    /// Converts the stored size of a picture to its upright size, or the other way round.
    pub(super) fn upright(self, (width, height): (u32, u32)) -> (u32, u32) {
        if self.transpose { (height, width) } else { (width, height) }
    }

    /// Where `region` of an upright picture of the given size lies in the stored one.
    pub(super) fn apply(self, region: Region, upright: (f64, f64)) -> Region {
        let Region { mut left, mut top, width, height } = region;
        if self.mirror_x {
            left = upright.0 - left - width;
        }
        if self.mirror_y {
            top = upright.1 - top - height;
        }
        let region = Region { left, top, width, height };
        if self.transpose { region.transposed() } else { region }
    }
}

impl Region {
    /// The same part of a picture whose rows and columns are swapped.
    pub(super) fn transposed(self) -> Self {
        Self { left: self.top, top: self.left, width: self.height, height: self.width }
    }

    /// The same part of a picture whose sides are multiplied by `factor`.
    pub(super) fn scaled(self, factor: f64) -> Self {
        Self {
            left: self.left * factor,
            top: self.top * factor,
            width: self.width * factor,
            height: self.height * factor,
        }
    }

    /// Clips what rounding moved past the border of a picture of the given size.
    pub(super) fn inside(self, size: (u32, u32)) -> Self {
        let (left, width) = clamp_span(self.left, self.width, f64::from(size.0));
        let (top, height) = clamp_span(self.top, self.height, f64::from(size.1));
        Self { left, top, width, height }
    }
}

fn clamp_span(start: f64, length: f64, limit: f64) -> (f64, f64) {
    let start = start.max(0.0);
    let mut length = length.min(limit - start);
    while start + length > limit {
        length = length.next_down();
    }
    (start, length)
}
