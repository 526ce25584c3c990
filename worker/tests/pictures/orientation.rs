//! The orientation of a picture: EXIF, older text chunks and XMP in every format, as Pillow reads
//! them.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(clippy::cast_possible_truncation, reason = "pixels of test pictures")]

use image::{ImageFormat, Rgb, RgbImage};

use crate::made::{encoded, segment, tiff, whole, with_segments};

/// EXIF with a rotation by 90 degrees.
const TURN: &[u8] = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";

fn is_turned(bytes: &[u8]) -> bool {
    let picture = whole(bytes).unwrap();
    (picture.width(), picture.height()) == (20, 30)
}

fn wide() -> RgbImage {
    RgbImage::from_fn(30, 20, |x, y| Rgb([x as u8 * 8, y as u8 * 12, 90]))
}

#[test]
fn exif_in_webp_turns_with_and_without_its_prefix() {
    let plain = encoded(wide(), ImageFormat::WebP);
    assert!(!is_turned(&plain));
    for exif in [TURN.to_vec(), [b"Exif\0\0", TURN].concat()] {
        let extended = riff(*b"VP8X", &[8, 0, 0, 0, 29, 0, 0, 19, 0, 0]);
        let body = [b"WEBP", &extended[..], &plain[12..], &riff(*b"EXIF", &exif)].concat();
        assert!(is_turned(&riff(*b"RIFF", &body)));
    }
}

#[test]
fn exif_in_png_turns_before_the_pixels_and_after_them() {
    let plain = encoded(wide(), ImageFormat::Png);
    let chunk = png_chunk(*b"eXIf", TURN);
    let before = plain.windows(4).position(|four| four == b"IDAT").unwrap() - 4;
    let after = plain.len() - 12;
    assert!(!is_turned(&plain));
    for at in [33, before, after] {
        let mut bytes = plain.clone();
        bytes.splice(at..at, chunk.clone());
        assert!(is_turned(&bytes), "{at}");
    }
}

/// A chunk of a PNG file.
fn png_chunk(kind: [u8; 4], content: &[u8]) -> Vec<u8> {
    let mut chunk = [&(content.len() as u32).to_be_bytes()[..], &kind, content].concat();
    chunk.extend(crc(&chunk[4..]).to_be_bytes());
    chunk
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

/// EXIF without an orientation, or with the normal one.
fn no_turn(tag: u8) -> Vec<u8> {
    let mut exif = TURN.to_vec();
    (exif[10], exif[18]) = (tag, 1);
    exif
}

/// XMP with an orientation: a rotation by 90 degrees, or the normal one.
fn xmp(orientation: u8) -> Vec<u8> {
    format!("<x:xmpmeta><rdf:Description tiff:Orientation=\"{orientation}\"/></x:xmpmeta>").into()
}

#[test]
fn png_turns_by_the_texts_that_older_tools_write_and_by_xmp() {
    let plain = encoded(wide(), ImageFormat::Png);
    let hex = |exif: &[u8]| {
        let digits: Vec<String> = exif.iter().map(|byte| format!("{byte:02x}")).collect();
        let lines: Vec<String> = digits.chunks(20).map(<[String]>::concat).collect();
        format!("\nexif\n{:8}\n{}\n", exif.len(), lines.join("\n")).into_bytes()
    };
    let text = |keyword: &str, text: &[u8]| {
        png_chunk(*b"tEXt", &[keyword.as_bytes(), b"\0", text].concat())
    };
    let packed = |keyword: &str, text: &[u8]| {
        png_chunk(*b"zTXt", &[keyword.as_bytes(), b"\0\0", &zlib(text)].concat())
    };
    let unicode = |keyword: &str, flag: &[u8], text: &[u8]| {
        png_chunk(*b"iTXt", &[keyword.as_bytes(), b"\0", flag, b"\0\0\0", text].concat())
    };
    let (raw, adobe) = ("Raw profile type exif", "XML:com.adobe.xmp");
    let exif = |content: &[u8]| png_chunk(*b"eXIf", content);
    let (turn, none, silent) = (TURN, no_turn(0x12), no_turn(0x10));
    for (what, chunks, expected) in [
        ("a text", vec![text(raw, &hex(turn))], true),
        ("a packed text", vec![packed(raw, &hex(turn))], true),
        ("a text with a prefix", vec![text(raw, &hex(&[b"Exif\0\0", turn].concat()))], true),
        ("EXIF before a text", vec![text(raw, &hex(turn)), exif(&silent)], false),
        ("the last text", vec![packed(raw, &hex(turn)), packed(raw, &hex(&none))], false),
        ("the last EXIF", vec![exif(turn), exif(&none)], false),
        ("the last EXIF that turns", vec![exif(&none), exif(turn)], true),
        ("XMP", vec![unicode(adobe, b"\0", &xmp(6))], true),
        ("packed XMP", vec![unicode(adobe, b"\x01", &zlib(&xmp(6)))], true),
        ("EXIF before XMP", vec![unicode(adobe, b"\0", &xmp(6)), exif(&none)], false),
        ("XMP beside silent EXIF", vec![unicode(adobe, b"\0", &xmp(6)), exif(&silent)], true),
        ("another text", vec![text("Comment", &xmp(6))], false),
    ] {
        for at in [33, plain.len() - 12] {
            let mut bytes = plain.clone();
            bytes.splice(at..at, chunks.concat());
            assert_eq!(is_turned(&bytes), expected, "{what} at {at}");
        }
    }
}

#[test]
fn a_packed_text_of_a_png_is_not_unpacked_beyond_what_a_profile_takes() {
    let mut bytes = encoded(wide(), ImageFormat::Png);
    let bomb = [b"Raw profile type exif\0\0", &zlib(&vec![b'\n'; 60 << 20])[..]].concat();
    bytes.splice(33..33, png_chunk(*b"zTXt", &bomb).repeat(20));
    let taken = allocation_counter::measure(|| assert!(!is_turned(&bytes)));
    assert!(taken.bytes_max < 8 << 20, "{} bytes", taken.bytes_max);
}

#[test]
fn xmp_turns_jpeg_webp_and_tiff_where_exif_is_silent() {
    let jpeg = encoded(wide(), ImageFormat::Jpeg);
    let exif = |content: &[u8]| segment(0xE1, &[b"Exif\0\0", content].concat());
    let packet =
        |turn| segment(0xE1, &[b"http://ns.adobe.com/xap/1.0/\0", &xmp(turn)[..]].concat());
    for (segments, expected) in [
        (vec![packet(6)], true),
        (vec![packet(6), packet(1)], false),
        (vec![packet(1), packet(6)], true),
        (vec![exif(&no_turn(0x10)), packet(6)], true),
        (vec![exif(&no_turn(0x12)), packet(6)], false),
        (vec![exif(TURN), packet(1)], true),
    ] {
        assert_eq!(is_turned(&with_segments(&jpeg, &segments)), expected);
    }
    let plain = encoded(wide(), ImageFormat::WebP);
    for (flags, expected) in [(4, true), (0, false)] {
        let extended = riff(*b"VP8X", &[flags, 0, 0, 0, 29, 0, 0, 19, 0, 0]);
        let body = [b"WEBP", &extended[..], &plain[12..], &riff(*b"XMP ", &xmp(6))].concat();
        assert_eq!(is_turned(&riff(*b"RIFF", &body)), expected);
    }
    let mut entries = vec![(256, 3, 30), (257, 3, 20), (258, 3, 8), (259, 3, 1), (262, 3, 1)];
    entries.extend([(273, 4, 512), (277, 3, 1), (278, 3, 20), (279, 4, 600), (700, 1, 1200)]);
    let mut bytes = tiff(&entries, &[7; 600]);
    let at = 10 + 12 * 9 + 4;
    bytes[at..at + 4].copy_from_slice(&(xmp(6).len() as u32).to_le_bytes());
    bytes.resize(1200, 0);
    bytes.extend(xmp(6));
    assert!(is_turned(&bytes));
}

/// A chunk of a WebP file.
fn riff(kind: [u8; 4], content: &[u8]) -> Vec<u8> {
    let mut chunk = [&kind[..], &(content.len() as u32).to_le_bytes(), content].concat();
    chunk.resize(chunk.len().next_multiple_of(2), 0);
    chunk
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[test]
fn the_orientation_of_a_tiff_turns() {
    let grey = |turn| {
        [(256, 3, 30), (257, 3, 20), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 512)]
            .into_iter()
            .chain([(274, 3, turn), (277, 3, 1), (278, 3, 20), (279, 4, 600)])
            .collect::<Vec<_>>()
    };
    assert!(!is_turned(&tiff(&grey(1), &[7; 600])));
    assert!(is_turned(&tiff(&grey(6), &[7; 600])));
}
