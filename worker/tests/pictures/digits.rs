//! Finding the handwritten digit, in the shared photos and in a few hundred generated ones.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "pixels of test pictures"
)]

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use image::{GrayImage, Luma};
use sheets::scenes::{self, Blank, SCENES, Scene};
use testdata::large;
use worker::model::{self, Model};
use worker::preprocess::{ImageError, Limits, Picture, decode, prepare, prepare_until};
use worker::repository::{Input, Resize, Version};

use crate::made::time_of_thread;

struct Sample {
    file: PathBuf,
    label: u32,
    variant: String,
}

fn samples() -> Option<Vec<Sample>> {
    let folder = large("digits")?;
    let table = fs::read_to_string(folder.join("labels.csv")).unwrap();
    let sample = |line: &str| {
        let columns: Vec<&str> = line.split(',').collect();
        let (file, label) = (folder.join(columns[0]), columns[1].parse().unwrap());
        Sample { file, label, variant: columns[3].to_owned() }
    };
    Some(table.lines().skip(1).map(sample).collect())
}

/// The digit model of the repository.
fn reader() -> Reader {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/mnist/1");
    let version = Version::read(&folder).unwrap();
    let network = model::load(&version, &engine::Options::default()).unwrap();
    Reader { network, input: version.manifest.input.unwrap() }
}

struct Reader {
    network: Box<dyn Model>,
    input: Input,
}

impl Reader {
    fn read(&self, bytes: &[u8]) -> u32 {
        self.answer(bytes).unwrap()
    }

    /// The digit, or why there is none.
    fn answer(&self, bytes: &[u8]) -> Result<u32, ImageError> {
        let picture = decode(bytes, &Limits::default()).unwrap();
        let planes = prepare(&picture, &self.input)?;
        let batch = Tensor::from_vec(planes, (1, 1, 28, 28), &Device::Cpu).unwrap();
        let logits = self.network.forward(&batch).unwrap();
        Ok(logits.argmax(1).unwrap().to_vec1::<u32>().unwrap()[0])
    }
}

/// The prepared picture, in grey levels from 0 to 255.
fn found(bytes: &[u8]) -> Vec<f32> {
    prepare(&decode(bytes, &Limits::default()).unwrap(), &levels()).unwrap()
}

fn levels() -> Input {
    Input { width: 28, height: 28, resize: Resize::Digit, mean: vec![0.0], std: vec![1.0 / 255.0] }
}

fn pixels(file: &Path) -> GrayImage {
    image::open(file).unwrap().into_luma8()
}

#[test]
fn images_of_mnist_keep_their_pixels() {
    let Some(samples) = samples() else { return };
    for sample in samples.iter().filter(|sample| sample.variant == "raw") {
        let original = pixels(&sample.file);
        let prepared = found(&fs::read(&sample.file).unwrap());
        let largest = original
            .as_raw()
            .iter()
            .zip(&prepared)
            .map(|(&before, after)| (f32::from(before) - after).abs())
            .fold(0.0, f32::max);
        assert!(largest < 12.0, "{}: {largest}", sample.file.display());
    }
}

#[test]
fn black_on_white_is_the_same_digit() {
    let Some(samples) = samples() else { return };
    for sample in samples.iter().filter(|sample| sample.variant == "raw") {
        let inverted = sample.file.to_str().unwrap().replace("_raw", "_inverted");
        let (raw, inverted) =
            (found(&fs::read(&sample.file).unwrap()), found(&fs::read(inverted).unwrap()));
        let difference: f32 = raw.iter().zip(&inverted).map(|(a, b)| (a - b).abs()).sum();
        assert!(difference / 784.0 < 6.0, "{}", sample.file.display());
    }
}

/// Self-contained: drawn by `tests/data/digits.py`, each named after the digit that it shows.
#[test]
fn digits_drawn_with_a_pen_are_read() {
    let reader = reader();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/digits");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let label: u32 = name[..1].parse().unwrap();
        assert_eq!(reader.read(&fs::read(&path).unwrap()), label, "{name}");
        count += 1;
    }
    assert!(count >= 12, "only {count} pictures");
}

#[test]
fn shared_photos_are_read() {
    let reader = reader();
    let Some(samples) = samples() else { return };
    let wrong: Vec<&Path> = samples
        .iter()
        .filter(|sample| reader.read(&fs::read(&sample.file).unwrap()) != sample.label)
        .map(|sample| sample.file.as_path())
        .collect();
    assert!(wrong.len() * 100 <= samples.len(), "{} of {}: {wrong:#?}", wrong.len(), samples.len());
}

/// A picture and its digit.
type Digit = (GrayImage, u32);

/// Half of the MNIST digits among the samples.
fn digits() -> Option<Vec<Digit>> {
    let samples = samples()?;
    let raw = samples.iter().filter(|sample| sample.variant == "raw").step_by(2);
    Some(raw.map(|sample| (pixels(&sample.file), sample.label)).collect())
}

/// At most one in twenty of each sort may be misread: a mean over all sorts would hide one of which
/// half are misread.
#[test]
fn photos_of_every_sort_are_read() {
    let Some(digits) = digits() else { return };
    let reader = reader();
    for sort in sheets::SORTS {
        let mut wrong = Vec::new();
        for (seed, (digit, label)) in (0u64..).zip(&digits) {
            let answer = reader.answer(&sheets::photograph(digit, sort, seed));
            if answer.as_ref().ok() != Some(label) {
                wrong.push((seed, *label, answer));
            }
        }
        assert!(wrong.len() * 20 <= digits.len(), "{sort:?}: {wrong:?}");
    }
}

/// At least nine in ten of each scene are read: a mean over all scenes would hide that frames are
/// read as zeros.
#[test]
fn what_lies_around_a_digit_is_not_read() {
    let Some(digits) = digits() else { return };
    for scene in SCENES {
        are_read(scene, &digits);
    }
}

/// The same with only a few pictures, as each takes half a second to draw.
#[test]
fn a_digit_of_110_pixels_in_12_megapixels_is_read() {
    let Some(digits) = digits() else { return };
    are_read(Scene::TwelveMegapixels, &digits[..10]);
}

fn are_read(scene: Scene, digits: &[Digit]) {
    let reader = reader();
    let mut wrong = Vec::new();
    for (seed, (digit, label)) in (0u64..).zip(digits) {
        let answer = reader.answer(&scenes::picture(digit, scene, seed));
        if answer.as_ref().ok() != Some(label) {
            wrong.push((seed, *label, answer));
        }
    }
    assert!(wrong.len() * 10 <= digits.len(), "{scene:?}: {wrong:?}");
}

#[test]
fn a_picture_without_a_digit_says_so() {
    for Blank { what, bytes } in scenes::blanks() {
        let picture = decode(&bytes, &Limits::default()).unwrap();
        let answer = prepare(&picture, &levels());
        assert!(matches!(answer, Err(ImageError::NoDigit)), "{what}");
    }
}

#[test]
fn the_search_for_a_digit_stops_when_its_time_is_over() {
    let sheet = GrayImage::from_fn(200, 200, |x, y| Luma([if x / 9 == 11 { 20 } else { y as u8 }]));
    let picture = Picture::from_gray(sheet);
    let asked = std::cell::Cell::new(0);
    for patience in 0..3 {
        asked.set(0);
        let is_over = || asked.replace(asked.get() + 1) >= patience;
        let stopped = prepare_until(&picture, &levels(), &is_over).map(|_| ());
        assert!(matches!(stopped, Err(ImageError::Stopped)), "{patience}: {stopped:?}");
        assert_eq!(asked.get(), patience + 1);
    }
}

/// The work on a view is linear in what is on it, not quadratic.
#[test]
fn a_thousand_strokes_take_a_few_times_as_long_as_one() {
    let plain =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/digits/4_paper.png"));
    let time = |bytes: &[u8]| {
        let picture = decode(bytes, &Limits::default()).unwrap();
        let once = || {
            let begun = time_of_thread();
            let _any = prepare(&picture, &levels());
            time_of_thread().saturating_sub(begun)
        };
        (0..3).map(|_| once()).min().unwrap()
    };
    let one = time(&plain.unwrap());
    for side in [128, 256] {
        let many = time(&scenes::strokes(side));
        assert!(many < 20 * one, "{side} pixels: {many:?}, one digit: {one:?}");
    }
}

#[test]
fn a_digit_off_the_middle_of_28_pixels_is_moved_and_not_redrawn() {
    let Some(samples) = samples() else { return };
    let mut count = 0;
    for sample in samples.iter().filter(|sample| sample.variant == "raw") {
        let original = pixels(&sample.file);
        // A digit that is shifted over the border loses a part and becomes a different picture.
        let is_lost = |(x, y, pixel): (u32, u32, &Luma<u8>)| pixel.0 != [0] && (x >= 25 || y < 3);
        if original.enumerate_pixels().any(is_lost) {
            continue;
        }
        let mut shifted = GrayImage::new(28, 28);
        image::imageops::replace(&mut shifted, &original, 3, -3);
        let mut bytes = std::io::Cursor::new(Vec::new());
        shifted.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        let (before, after) = (found(&fs::read(&sample.file).unwrap()), found(bytes.get_ref()));
        let moved = (-1..=1).flat_map(|dx| (-1..=1).map(move |dy| (dx, dy)));
        let difference = moved.map(|by| difference(&before, &after, by)).fold(f32::MAX, f32::min);
        assert!(difference < 1.0, "{}: {difference}", sample.file.display());
        count += 1;
    }
    assert!(count > 0);
}

/// The mean difference of two images of 28 x 28 pixels, the second shifted.
fn difference(left: &[f32], right: &[f32], (dx, dy): (isize, isize)) -> f32 {
    let mut sum = 0.0;
    for at in 0..784isize {
        let (x, y) = (at % 28 + dx, at / 28 + dy);
        let is_inside = (0..28).contains(&x) && (0..28).contains(&y);
        let other = if is_inside { right[(y * 28 + x) as usize] } else { 0.0 };
        sum += (left[at as usize] - other).abs();
    }
    sum / 784.0
}
