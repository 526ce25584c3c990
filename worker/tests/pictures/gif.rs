//! GIF files whose first frame does not match the canvas that they declare.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(clippy::cast_possible_truncation, reason = "pixels of test pictures")]

use gif::{Encoder, Frame};
use worker::preprocess::{ImageError, Limits, decode};

use crate::made::{levels, whole};

const WIDTH: u16 = 12;
const HEIGHT: u16 = 9;
/// Number of colours, which are grey levels.
const NUMBERS: u8 = 100;

/// A frame in which no two neighbouring pixels are alike.
fn frame() -> Frame<'static> {
    let numbers = (0..WIDTH * HEIGHT).map(|at| (7 * at % u16::from(NUMBERS)) as u8);
    let buffer = numbers.collect::<Vec<u8>>().into();
    Frame { width: WIDTH, height: HEIGHT, buffer, ..Frame::default() }
}

fn encoded((width, height): (u16, u16), frame: &Frame<'_>) -> Vec<u8> {
    let palette: Vec<u8> = (0..NUMBERS).flat_map(|level| [level; 3]).collect();
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes, width, height, &palette).unwrap().write_frame(frame).unwrap();
    bytes
}

/// The levels of a canvas with the frame at its position.
fn page(frame: &Frame<'_>, (width, height): (u32, u32)) -> Vec<u8> {
    let level = |x: u32, y: u32| {
        let (x, y) = (x.checked_sub(frame.left.into())?, y.checked_sub(frame.top.into())?);
        let is_inside = x < u32::from(frame.width) && y < u32::from(frame.height);
        let number = is_inside.then(|| frame.buffer[(y * u32::from(frame.width) + x) as usize])?;
        (Some(number) != frame.transparent).then_some(number)
    };
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    places.map(|(x, y)| level(x, y).unwrap_or(255)).collect()
}

#[test]
fn a_page_has_room_for_the_frame_and_is_bare_around_it() {
    for (announced, (left, top), size) in [
        ((12, 9), (0, 0), (12, 9)),
        ((0, 0), (0, 0), (12, 9)),
        ((5, 20), (0, 0), (12, 20)),
        ((12, 9), (3, 4), (15, 13)),
        ((20, 30), (3, 4), (20, 30)),
    ] {
        let plain = Frame { left, top, ..frame() };
        for frame in [Frame { transparent: Some(7), ..plain.clone() }, plain] {
            let picture = whole(&encoded(announced, &frame)).unwrap();
            assert_eq!((picture.width(), picture.height()), size, "{announced:?}");
            assert!(levels(&picture) == page(&frame, size), "{announced:?} {left} {top}");
        }
    }
}

#[test]
fn the_rows_of_an_interlaced_frame_are_put_in_order() {
    let plain = frame();
    let rows = [0, 8, 4, 2, 6, 1, 3, 5, 7]
        .map(|row| plain.buffer[row * usize::from(WIDTH)..][..usize::from(WIDTH)].to_vec());
    let passes = Frame { interlaced: true, buffer: rows.concat().into(), ..plain.clone() };
    let pictures = [&plain, &passes].map(|frame| whole(&encoded((WIDTH, HEIGHT), frame)).unwrap());
    assert!(levels(&pictures[0]) == levels(&pictures[1]));
}

#[test]
fn a_frame_takes_the_memory_that_is_counted_wherever_it_lies() {
    let frame = Frame {
        left: 1,
        top: 1,
        width: 999,
        height: 999,
        buffer: vec![3; 999 * 999].into(),
        ..Frame::default()
    };
    let bytes = encoded((1000, 1000), &frame);
    let within = |max_bytes| decode(&bytes, &Limits { max_bytes, ..Limits::default() });
    let measured = allocation_counter::measure(|| drop(within(4_200_000).unwrap()));
    assert!(measured.bytes_max < 4_300_000, "{measured:?}");
    assert!(matches!(within(4_000_000), Err(ImageError::TooMuchMemory { .. })));
}

#[test]
fn a_frame_that_ends_early_is_refused() {
    let bytes = encoded((WIDTH, HEIGHT), &frame());
    assert!(whole(&bytes[..bytes.len() - 1]).is_ok(), "the trailer is missing");
    for length in 0..bytes.len() - 20 {
        assert!(whole(&bytes[..length]).is_err(), "{length} bytes");
    }
}
