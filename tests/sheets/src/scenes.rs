//! Pictures that contain more than the digit, or hardly any sheet around it.
//!
//! Drawn in floating point on a small canvas, from a seed, independently of how the search works.

use std::io::Cursor;

use image::{DynamicImage, GrayImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage, imageops};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What is in the picture besides the digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    PrintedFrame,
    RoundFrame,
    FormBox,
    GraphPaper,
    DarkGraphPaper,
    InkedGraphPaper,
    LinedPaper,
    Underlined,
    StickyNote,
    SheetOnTable,
    HardShadow,
    FarAway,
    FurthestAway,
    CutOut,
    CutOutWhite,
    TinyCutOut,
    WhiteOnNothing,
    TwelveMegapixels,
}

/// All scenes that are quick to draw.
pub const SCENES: [Scene; 17] = [
    Scene::PrintedFrame,
    Scene::RoundFrame,
    Scene::FormBox,
    Scene::GraphPaper,
    Scene::DarkGraphPaper,
    Scene::InkedGraphPaper,
    Scene::LinedPaper,
    Scene::Underlined,
    Scene::StickyNote,
    Scene::SheetOnTable,
    Scene::HardShadow,
    Scene::FarAway,
    Scene::FurthestAway,
    Scene::CutOut,
    Scene::CutOutWhite,
    Scene::TinyCutOut,
    Scene::WhiteOnNothing,
];

const PAPER: [f32; 3] = [246.0, 243.0, 236.0];
const PEN: [f32; 3] = [28.0, 30.0, 48.0];
const LINES: [f32; 3] = [120.0, 145.0, 195.0];
const DARK_LINES: [f32; 3] = [70.0, 80.0, 115.0];

/// A canvas of floating-point colours.
struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<[f32; 3]>,
}

impl Canvas {
    fn new(width: usize, height: usize, colour: [f32; 3]) -> Self {
        Self { width, height, pixels: vec![colour; width * height] }
    }

    /// Blends a colour into each pixel by its `coverage`, from 0 to 1.
    fn paint(&mut self, colour: [f32; 3], coverage: impl Fn(f32, f32) -> f32) {
        for (at, pixel) in self.pixels.iter_mut().enumerate() {
            let (x, y) = ((at % self.width) as f32, (at / self.width) as f32);
            let share = coverage(x, y).clamp(0.0, 1.0);
            for (value, paint) in pixel.iter_mut().zip(colour) {
                *value += (paint - *value) * share;
            }
        }
    }

    /// Multiplies each pixel by the light that falls on it.
    fn shade(&mut self, light: impl Fn(f32, f32) -> f32) {
        for (at, pixel) in self.pixels.iter_mut().enumerate() {
            let light = light((at % self.width) as f32, (at / self.width) as f32);
            for value in pixel {
                *value *= light;
            }
        }
    }

    fn digit(&mut self, mask: &GrayImage, (left, top): (usize, usize), colour: [f32; 3]) {
        for (x, y, value) in mask.enumerate_pixels() {
            let (x, y) = (x as usize + left, y as usize + top);
            if x < self.width && y < self.height {
                let share = f32::from(value[0]) / 255.0;
                for (value, paint) in self.pixels[y * self.width + x].iter_mut().zip(colour) {
                    *value += (paint - *value) * share;
                }
            }
        }
    }

    fn shot(&self, grain: f32, rng: &mut StdRng) -> RgbImage {
        RgbImage::from_fn(self.width as u32, self.height as u32, |x, y| {
            let noise: f32 = rng.random_range(-1.7..1.7);
            let pixel = self.pixels[y as usize * self.width + x as usize];
            Rgb(pixel.map(|value| (value + noise * grain).clamp(0.0, 255.0) as u8))
        })
    }
}

/// The digit, cropped to its strokes and enlarged to a height, with edges as sharp as a pen's.
fn mask(digit: &GrayImage, height: u32) -> GrayImage {
    let (mut left, mut top, mut right, mut bottom) = (28, 28, 0, 0);
    for (x, y, value) in digit.enumerate_pixels() {
        if value[0] > 60 {
            (left, top) = (left.min(x), top.min(y));
            (right, bottom) = (right.max(x + 1), bottom.max(y + 1));
        }
    }
    let cut = imageops::crop_imm(digit, left, top, right - left, bottom - top).to_image();
    let width = (cut.width() * height).div_ceil(cut.height());
    let mut large = imageops::resize(&cut, width, height, imageops::FilterType::CatmullRom);
    if height > 28 {
        for pixel in large.pixels_mut() {
            pixel[0] = ((f32::from(pixel[0]) - 80.0) * 2.5).clamp(0.0, 255.0) as u8;
        }
    }
    large
}

/// Coverage by a line along which `distance` is zero; to be clamped to 0 to 1.
fn line(distance: f32, width: f32) -> f32 {
    width / 2.0 + 0.5 - distance.abs()
}

/// A picture of `digit` (white on black) as the bytes of a JPEG or PNG file.
pub fn picture(digit: &GrayImage, scene: Scene, seed: u64) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(seed);
    match scene {
        Scene::CutOut | Scene::CutOutWhite | Scene::TinyCutOut => cut_out(digit, scene, &mut rng),
        Scene::WhiteOnNothing => white_on_nothing(&mask(digit, rng.random_range(100..200))),
        Scene::FarAway => {
            let mut canvas = Canvas::new(1600, 1200, PAPER);
            let place = (rng.random_range(100..1400), rng.random_range(100..1000));
            canvas.digit(&mask(digit, 70), place, PEN);
            crate::jpeg(&canvas.shot(2.0, &mut rng), 85)
        }
        Scene::FurthestAway => {
            // A few pixels of the view searched first, where a narrow digit looks like a rectangle.
            let size = (rng.random_range(1980..2001), rng.random_range(1480..1501));
            let mut canvas = Canvas::new(size.0, size.1, PAPER);
            let place = (rng.random_range(100..1800), rng.random_range(100..1300));
            canvas.digit(&mask(digit, rng.random_range(50..60)), place, PEN);
            crate::jpeg(&canvas.shot(2.0, &mut rng), 85)
        }
        Scene::TwelveMegapixels => crate::jpeg(&from_above(digit, &mut rng), 85),
        Scene::PrintedFrame
        | Scene::RoundFrame
        | Scene::FormBox
        | Scene::GraphPaper
        | Scene::DarkGraphPaper
        | Scene::InkedGraphPaper
        | Scene::LinedPaper
        | Scene::Underlined
        | Scene::StickyNote
        | Scene::SheetOnTable
        | Scene::HardShadow => {
            let canvas = arranged(&mask(digit, rng.random_range(100..150)), scene, &mut rng);
            crate::jpeg(&canvas.shot(2.0, &mut rng), rng.random_range(70..95))
        }
    }
}

/// A digit of 110 pixels somewhere on a sheet of paper that fills a phone's picture.
fn from_above(digit: &GrayImage, rng: &mut StdRng) -> RgbImage {
    let mut picture = RgbImage::new(4000, 3000);
    // The same grain is tiled, because drawing random numbers is slow.
    imageops::tile(&mut picture, &Canvas::new(500, 500, PAPER).shot(2.0, rng));
    let mut canvas = Canvas::new(200, 200, PAPER);
    canvas.digit(&mask(digit, 110), (40, 40), PEN);
    let (left, top) = (rng.random_range(100..3700), rng.random_range(100..2700));
    imageops::replace(&mut picture, &canvas.shot(2.0, rng), left, top);
    picture
}

/// A canvas of 400 x 400 with the digit near its centre.
fn arranged(mask: &GrayImage, scene: Scene, rng: &mut StdRng) -> Canvas {
    let is_on_desk = matches!(scene, Scene::StickyNote | Scene::SheetOnTable);
    let mut canvas = Canvas::new(400, 400, if is_on_desk { [110.0, 78.0, 52.0] } else { PAPER });
    let (width, height) = (mask.width() as usize, mask.height() as usize);
    let left = 200 - width / 2 + rng.random_range(0..30) - 15;
    let top = 200 - height / 2 + rng.random_range(0..30) - 15;
    let (offset, tilt): (f32, f32) = (rng.random_range(0.0..25.0), rng.random_range(-0.05..0.05));
    let box_at = |x: f32, y: f32, half: f32| {
        let (x, y) = (x - 200.0, y - 200.0);
        (x + tilt * y).abs().max((y - tilt * x).abs()) - half
    };
    match scene {
        Scene::PrintedFrame => canvas.paint(PEN, |x, y| line(box_at(x, y, 140.0), 5.0)),
        Scene::FormBox => canvas.paint([20.0; 3], |x, y| line(box_at(x, y, 105.0), 4.0)),
        Scene::RoundFrame => {
            canvas.paint(PEN, |x, y| line((x - 200.0).hypot(y - 200.0) - 150.0, 5.0));
        }
        Scene::GraphPaper | Scene::DarkGraphPaper | Scene::InkedGraphPaper | Scene::LinedPaper => {
            let step = if scene == Scene::LinedPaper { 44.0 } else { 20.0 };
            let colour = match scene {
                Scene::DarkGraphPaper => DARK_LINES,
                Scene::InkedGraphPaper => PEN,
                _ => LINES,
            };
            let to_line = |at: f32| line((at + offset).rem_euclid(step) - step / 2.0, 2.0);
            canvas.paint(colour, |x, y| {
                let down = if scene == Scene::LinedPaper { 0.0 } else { to_line(x) };
                to_line(y + tilt * x).max(down)
            });
        }
        Scene::StickyNote | Scene::SheetOnTable => {
            let is_note = scene == Scene::StickyNote;
            let (colour, half) =
                if is_note { ([250.0, 228.0, 112.0], 105.0) } else { (PAPER, 150.0) };
            canvas.paint(colour, |x, y| 0.5 - box_at(x, y, half));
        }
        Scene::Underlined => {
            let at = (top + height + 16) as f32;
            let (from, to) = (left as f32 - 30.0, (left + width) as f32 + 30.0);
            canvas.paint(PEN, |x, y| {
                if (from..to).contains(&x) { line(y - at + tilt * x, 8.0) } else { 0.0 }
            });
        }
        _ => {}
    }
    canvas.digit(mask, (left, top), PEN);
    if scene == Scene::HardShadow {
        let turn: f32 = rng.random_range(0.0..std::f32::consts::TAU);
        canvas.shade(|x, y| {
            let along = (x - 200.0) * turn.cos() + (y - 200.0) * turn.sin() - offset;
            1.0 - 0.5 / (1.0 + (-along / 1.5).exp())
        });
    }
    canvas
}

/// Cropped to the strokes: all that is left of the sheet is the space between them.
fn cut_out(digit: &GrayImage, scene: Scene, rng: &mut StdRng) -> Vec<u8> {
    if scene == Scene::TinyCutOut {
        let whole = imageops::resize(&mask(digit, 28), 28, 28, imageops::FilterType::CatmullRom);
        return png(&DynamicImage::from(whole));
    }
    let mask = mask(digit, rng.random_range(150..240));
    let (paper, pen) = if scene == Scene::CutOut { (PAPER, PEN) } else { ([22.0; 3], [238.0; 3]) };
    let mut canvas = Canvas::new(mask.width() as usize, mask.height() as usize, paper);
    canvas.digit(&mask, (0, 0), pen);
    crate::jpeg(&canvas.shot(1.0, rng), 90)
}

fn white_on_nothing(mask: &GrayImage) -> Vec<u8> {
    let mut drawing = RgbaImage::from_pixel(300, 300, Rgba([0; 4]));
    for (x, y, value) in mask.enumerate_pixels() {
        if x + 60 < 300 && value[0] > 0 {
            drawing.put_pixel(x + 60, y + 50, Rgba([255, 255, 255, value[0]]));
        }
    }
    png(&DynamicImage::from(drawing))
}

fn png(image: &DynamicImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A picture without a digit.
#[derive(Debug)]
pub struct Blank {
    /// What it shows.
    pub what: &'static str,
    pub bytes: Vec<u8>,
}

/// One picture of each kind without a digit.
pub fn blanks() -> Vec<Blank> {
    let mut rng = StdRng::seed_from_u64(7);
    let mut blank = |what, canvas: &Canvas, grain: f32| Blank {
        what,
        bytes: crate::jpeg(&canvas.shot(grain, &mut rng), 85),
    };
    let empty = |width: usize, colour: [f32; 3]| Canvas::new(width, 300, colour);
    let mut blanks = vec![
        blank("white", &empty(300, [255.0; 3]), 0.0),
        blank("black", &empty(300, [0.0; 3]), 0.0),
        blank("paper", &empty(400, PAPER), 3.0),
        blank("coarse grain", &empty(400, [200.0; 3]), 15.0),
        blank("many megapixels of paper", &Canvas::new(2400, 1800, PAPER), 3.0),
    ];
    blanks.extend(sheets().into_iter().map(|(what, canvas)| blank(what, &canvas, 2.0)));
    blanks.extend(patterns().into_iter().map(|(what, canvas)| blank(what, &canvas, 2.0)));
    let tiny =
        |level: u8| png(&DynamicImage::from(GrayImage::from_pixel(28, 28, image::Luma([level]))));
    let nothing = png(&DynamicImage::from(RgbaImage::new(200, 200)));
    blanks.extend(
        [("28x28 of black", tiny(0)), ("28x28 of white", tiny(255)), ("transparency", nothing)]
            .map(|(what, bytes)| Blank { what, bytes }),
    );
    blanks
}

/// What a canvas shows, and the canvas.
type Named = (&'static str, Canvas);

/// Sheets in different light, and with printed lines and frames.
fn sheets() -> Vec<Named> {
    let sheet = || Canvas::new(400, 300, PAPER);
    let [mut lamp, mut shadow, mut lined, mut form, mut frame, mut underline] =
        [(); 6].map(|()| sheet());
    lamp.shade(|x, y| 1.0 - 0.0012 * x - 0.0005 * y);
    shadow.shade(|x, y| if x + 0.3 * y < 230.0 { 1.0 } else { 0.55 });
    lined.paint(LINES, |_, y| line(y.rem_euclid(44.0) - 22.0, 2.0));
    let from_middle = |x: f32, y: f32| (x - 200.0).abs().max((y - 150.0).abs());
    frame.paint(PEN, |x, y| line(from_middle(x, y) - 120.0, 4.0));
    form.paint([20.0; 3], |x, y| line(from_middle(x, y) - 60.0, 4.0));
    underline
        .paint(PEN, |x, y| if (120.0..280.0).contains(&x) { line(y - 180.0, 8.0) } else { 0.0 });
    let mut note = Canvas::new(400, 300, [125.0, 125.0, 128.0]);
    note.paint([250.0, 228.0, 112.0], |x, y| 100.5 - from_middle(x, y));
    let mut table = Canvas::new(400, 300, [110.0, 78.0, 52.0]);
    table.paint(PAPER, |x, y| 120.5 - from_middle(x + 0.04 * y, y - 0.04 * x));
    let mut square = Canvas::new(2000, 1500, PAPER);
    square.paint(PEN, |x, y| 20.5 - (x - 700.0).abs().max((y - 600.0).abs()));
    vec![
        ("paper under a lamp", lamp),
        ("a shadow", shadow),
        ("lined paper", lined),
        ("an empty frame", frame),
        ("an empty box of a form", form),
        ("an underline", underline),
        ("an empty note", note),
        ("an empty sheet on a table", table),
        ("a small square", square),
    ]
}

/// Patterns with as many strokes as a sheet has room for.
fn patterns() -> Vec<Named> {
    let grid = |step: f32, colour| {
        let mut canvas = Canvas::new(400, 300, PAPER);
        canvas.paint(colour, |x, y| {
            let to_line = |at: f32| line(at.rem_euclid(step) - step / 2.0, 2.0);
            to_line(x).max(to_line(y))
        });
        canvas
    };
    let mut hatching = Canvas::new(400, 300, PAPER);
    hatching.paint(PEN, |x, y| line((x + 0.6 * y).rem_euclid(12.0) - 6.0, 3.0));
    vec![
        ("graph paper", grid(25.0, LINES)),
        ("dark graph paper", grid(20.0, PEN)),
        ("hatching", hatching),
        ("dashes", dashes(256, 4, 10)),
        ("short dashes", dashes(128, 2, 7)),
    ]
}

/// Vertical dashes, `across` pixels apart, in rows `down` pixels apart.
fn dashes(side: usize, across: usize, down: usize) -> Canvas {
    let mut canvas = Canvas::new(side, side, [250.0; 3]);
    canvas.paint([20.0; 3], |x, y| {
        let is_ink = (x as usize).is_multiple_of(across) && (y as usize % down) * 10 < 7 * down;
        if is_ink { 1.0 } else { 0.0 }
    });
    canvas
}

/// As many strokes as a view has room for, in a lossless file.
pub fn strokes(side: usize) -> Vec<u8> {
    let (across, down) = if side <= 128 { (2, 7) } else { (4, 10) };
    let mut rng = StdRng::seed_from_u64(0);
    png(&DynamicImage::from(dashes(side, across, down).shot(0.0, &mut rng)))
}
