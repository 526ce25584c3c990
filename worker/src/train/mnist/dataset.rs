//! MNIST in memory: images of 28x28 bytes with their labels.

use std::path::{Path, PathBuf};

use rand::{SeedableRng, rngs::Xoshiro256PlusPlus, seq::SliceRandom};

use super::idx::{self, Idx};
use crate::{Error, train::invalid};

/// Pixels on a side.
pub const SIDE: usize = 28;
/// Pixels of an image.
pub const PIXELS: usize = SIDE * SIDE;
/// Classes to tell apart: the ten digits.
pub const CLASSES: usize = 10;
/// Mean of MNIST's training pixels, scaled to 0..1.
pub const MEAN: f32 = 0.1307;
/// Standard deviation of the same.
pub const STD: f32 = 0.3081;

/// Which of the two published sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// 60,000 images to learn from.
    Train,
    /// 10,000 images to measure with, and for nothing else.
    Test,
}

/// Images with their labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    images: Vec<u8>,
    labels: Vec<u8>,
}

impl Split {
    fn stem(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "t10k",
        }
    }
}

impl Dataset {
    /// Reads the two files of `split` from `dir`, plain or gzipped.
    pub fn load(dir: &Path, split: Split) -> Result<Self, Error> {
        let images_path = find(dir, &format!("{}-images", split.stem()), 3)?;
        let labels_path = find(dir, &format!("{}-labels", split.stem()), 1)?;
        let images = idx::read(&images_path)?;
        let labels = idx::read(&labels_path)?;
        check(&images_path, &images, &labels_path, &labels)?;
        Ok(Self { images: images.elements, labels: labels.elements })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images to learn from.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The pixels of image `i`, row by row, white ink on black.
    pub fn image(&self, i: usize) -> &[u8] {
        &self.images[i * PIXELS..(i + 1) * PIXELS]
    }

    /// The digit in image `i`.
    pub fn label(&self, i: usize) -> usize {
        usize::from(self.labels[i])
    }

    /// Splits off `count` images drawn by `seed`; returns the rest and the drawn images.
    pub fn hold_out(&self, count: usize, seed: u64) -> (Self, Self) {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(seed));
        let (drawn, rest) = order.split_at(count.min(self.len()));
        (self.select(rest), self.select(drawn))
    }

    /// The images at `indices`, in that order.
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        Self {
            images: indices.iter().flat_map(|&i| self.image(i)).copied().collect(),
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
        }
    }

    /// Image `i` as the network's input, without augmentation.
    pub fn normalised(&self, i: usize) -> impl Iterator<Item = f32> {
        self.image(i).iter().map(|&v| normalise(f32::from(v) / 255.0))
    }
}

/// Maps 0..1 to the scale of the network's input.
pub fn normalise(ink: f32) -> f32 {
    (ink - MEAN) / STD
}

fn find(dir: &Path, stem: &str, dimensions: usize) -> Result<PathBuf, Error> {
    let name = format!("{stem}-idx{dimensions}-ubyte");
    let dotted = format!("{stem}.idx{dimensions}-ubyte");
    [format!("{name}.gz"), name.clone(), format!("{dotted}.gz"), dotted]
        .into_iter()
        .map(|name| dir.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            let fix =
                "give the folder of MNIST's four files with --data, or fetch them with --download";
            invalid(dir, format!("has neither {name}.gz nor {name}; {fix}"))
        })
}

fn check(images_at: &Path, images: &Idx, labels_at: &Path, labels: &Idx) -> Result<(), Error> {
    let &[count, SIDE, SIDE] = images.sizes.as_slice() else {
        let reason = format!("sizes {:?} where [n, {SIDE}, {SIDE}] is needed", images.sizes);
        return Err(invalid(images_at, reason));
    };
    if labels.sizes != [count] {
        let reason = format!("sizes {:?} for {count} images", labels.sizes);
        return Err(invalid(labels_at, reason));
    }
    if let Some(label) = labels.elements.iter().find(|&&label| usize::from(label) >= CLASSES) {
        return Err(invalid(labels_at, format!("label {label} is not a digit")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idx(sizes: &[u32], elements: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, u8::try_from(sizes.len()).unwrap()];
        bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
        bytes.extend(elements);
        bytes
    }

    fn folder(images: &[u8], labels: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("train-images-idx3-ubyte"), images).unwrap();
        std::fs::write(dir.path().join("train-labels.idx1-ubyte"), labels).unwrap();
        dir
    }

    #[test]
    fn a_folder_without_the_files_is_told_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = Dataset::load(dir.path(), Split::Test).unwrap_err().to_string();
        assert!(error.contains("t10k-images-idx3-ubyte.gz") && error.contains("--download"));
    }

    #[test]
    fn images_and_labels_must_agree() {
        let images = idx(&[2, 28, 28], &[9; 2 * PIXELS]);
        let loaded = Dataset::load(folder(&images, &idx(&[2], &[3, 7])).path(), Split::Train);
        assert_eq!(loaded.unwrap().label(1), 7);
        let refused = |images: &[u8], labels: &[u8]| {
            Dataset::load(folder(images, labels).path(), Split::Train).unwrap_err().to_string()
        };
        assert!(refused(&images, &idx(&[3], &[1, 2, 3])).contains("[3] for 2 images"));
        assert!(refused(&images, &idx(&[2], &[1, 10])).contains("label 10"));
        let small = idx(&[1, 27, 28], &[0; 27 * 28]);
        assert!(refused(&small, &idx(&[1], &[1])).contains("[1, 27, 28]"));
    }

    #[test]
    fn held_out_images_leave_the_training_set() {
        let labels: Vec<u8> = (0..10).collect();
        let images: Vec<u8> = labels.iter().flat_map(|&l| [l; PIXELS]).collect();
        let whole = Dataset { images, labels };
        let (rest, drawn) = whole.hold_out(3, 1);
        assert_eq!((rest.len(), drawn.len()), (7, 3));
        let mut all: Vec<u8> = rest.labels.iter().chain(&drawn.labels).copied().collect();
        all.sort_unstable();
        assert_eq!(all, whole.labels);
        assert_eq!(usize::from(drawn.image(2)[783]), drawn.label(2));
        assert_eq!(whole.hold_out(3, 1).1, drawn, "the seed alone decides");
        assert_ne!(whole.hold_out(3, 2).1, drawn);
    }
}
