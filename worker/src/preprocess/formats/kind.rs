//! Recognises the format of a file by its first bytes, whatever its name says.
//!
//! For a format that is not decoded here, the error names it and says what to do: phones send HEIC
//! without telling their owners.

use image::ImageFormat;

use crate::preprocess::ImageError;

/// The format of a file, or an error that says what it is if it is not decoded here.
pub(in crate::preprocess) fn recognise(bytes: &[u8]) -> Result<ImageFormat, ImageError> {
    if let Some(sentence) = other(bytes) {
        return Err(ImageError::NotDecoded(sentence));
    }
    if BIG_TIFFS.iter().any(|start| bytes.starts_with(start)) {
        return Ok(ImageFormat::Tiff);
    }
    match image::guess_format(bytes) {
        Ok(format) if format.reading_enabled() => Ok(format),
        Ok(_) | Err(_) => Err(ImageError::UnknownFormat),
    }
}

/// First bytes of a TIFF with 64-bit offsets, which the `image` crate decodes but does
/// not recognise.
const BIG_TIFFS: [&[u8]; 2] = [b"II\x2B\0", b"MM\0\x2B"];

/// First bytes of a format, and a sentence about it.
type Other = (&'static [u8], &'static str);

const OTHERS: [Other; 22] = [
    (b"\xFF\x0A", JPEG_XL),
    (b"\0\0\0\x0CJXL \r\n\x87\n", JPEG_XL),
    (b"\0\0\0\x0CjP  \r\n\x87\n", JPEG_2000),
    (b"\xFF\x4F\xFF\x51", JPEG_2000),
    (b"%PDF-", "PDF is not decoded here; export the page as JPEG or PNG"),
    (b"%!PS", "PostScript is not decoded here; export the page as JPEG or PNG"),
    (b"8BPS", "Photoshop files are not decoded here; export as JPEG or PNG"),
    (b"gimp xcf", "GIMP files are not decoded here; export as JPEG or PNG"),
    (b"\0\0\x01\0", "Windows icons are not decoded here; export as PNG"),
    (b"\0\0\x02\0", "Windows cursors are not decoded here; export as PNG"),
    (b"DDS ", "DirectDraw textures are not decoded here; export as PNG"),
    (b"qoif", "QOI is not decoded here; export as PNG"),
    (b"farbfeld", "farbfeld is not decoded here; export as PNG"),
    (b"v/1\x01", "OpenEXR is not decoded here; export as JPEG or PNG"),
    (b"#?RADIANCE", "Radiance HDR is not decoded here; export as JPEG or PNG"),
    (b"II\xBC\x01", "JPEG XR is not decoded here; export as JPEG or PNG"),
    (b"IIRO", RAW),
    (b"IIU\0", RAW),
    (b"FUJIFILM", RAW),
    (b"PK\x03\x04", "a ZIP archive is no image; send the images in it one by one"),
    (b"\x1F\x8B", "a gzip file is no image; unpack it, or name gzip as Content-Encoding"),
    (b"\x1A\x45\xDF\xA3", VIDEO),
];

const JPEG_XL: &str = "JPEG XL is not decoded here; export as JPEG or PNG";
const JPEG_2000: &str = "JPEG 2000 is not decoded here; export as JPEG or PNG";
const HEIC: &str = "HEIC is not decoded here; export as JPEG \
    (iPhone: Settings, Camera, Formats, Most Compatible)";
const AVIF: &str = "AVIF is not decoded here; export as JPEG, PNG or WebP";
const RAW: &str = "camera raw files are not decoded here; export as JPEG";
const VIDEO: &str = "a video is no image; send one frame of it as JPEG or PNG";
const SVG: &str = "SVG is not decoded here; export as PNG";
const HTML: &str = "a web page is no image; send the image itself or its own address";

fn other(bytes: &[u8]) -> Option<&'static str> {
    if let Some((_, sentence)) = OTHERS.iter().find(|(start, _)| bytes.starts_with(start)) {
        return Some(sentence);
    }
    match bytes.first_chunk::<12>() {
        Some([_, _, _, _, b'f', b't', b'y', b'p', brand @ ..]) => Some(media(*brand, bytes)),
        _ => text(bytes),
    }
}

/// Names an ISO media file by its brand, or by the compatible brands if that one is generic.
fn media(brand: [u8; 4], bytes: &[u8]) -> &'static str {
    let of = |brand: &[u8; 4]| match brand {
        b"avif" | b"avis" => Some(AVIF),
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"hevm" | b"hevs" => Some(HEIC),
        b"crx " => Some(RAW),
        b"jxl " => Some(JPEG_XL),
        b"jp2 " | b"jpx " => Some(JPEG_2000),
        _ => None,
    };
    let length = bytes.first_chunk().map_or(0, |length| u32::from_be_bytes(*length) as usize);
    let end = length.min(bytes.len()).min(256);
    let compatible = bytes.get(16..end).unwrap_or_default().as_chunks::<4>().0;
    let general = if matches!(&brand, b"mif1" | b"msf1") { HEIC } else { VIDEO };
    of(&brand).or_else(|| compatible.iter().find_map(of)).unwrap_or(general)
}

/// Names a text file by its first element.
fn text(bytes: &[u8]) -> Option<&'static str> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let start = bytes.get(..bytes.len().min(1024))?.trim_ascii_start().to_ascii_lowercase();
    let holds = |word: &[u8]| start.windows(word.len()).any(|window| window == word);
    if !start.starts_with(b"<") {
        return None;
    }
    if holds(b"<svg") {
        return Some(SVG);
    }
    (holds(b"<html") || holds(b"<!doctype html")).then_some(HTML)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        recognise(bytes).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_decoded_is_called_by_its_name() {
        for (bytes, name) in [
            (&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], "HEIC"),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
            (b"\0\0\0\x1Cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
            (b"\0\0\0\x18ftypavif\0\0\0\0mif1miaf", "AVIF"),
            (b"\0\0\0\x18ftypisom\0\0\x02\0isomiso2", "video"),
            (b"\0\0\0\x0CJXL \r\n\x87\n", "JPEG XL"),
            (b"\xFF\x0A\x10", "JPEG XL"),
            (b"\0\0\0\x0CjP  \r\n\x87\n", "JPEG 2000"),
            (b"<?xml version=\"1.0\"?>\n<svg width=\"8\"/>", "SVG"),
            (b"\xEF\xBB\xBF  <SVG/>", "SVG"),
            (b"<!DOCTYPE html><title>no</title>", "web page"),
            (b"%PDF-1.7", "PDF"),
            (b"\0\0\x01\0\x01\0", "icon"),
        ] {
            assert!(refusal(bytes).contains(name), "{name}: {}", refusal(bytes));
        }
    }

    #[test]
    fn what_is_nothing_known_stays_unknown() {
        for bytes in [&b""[..], b"<", b"ftyp", b"just text", b"\0\0\0\x18ftyp"] {
            assert!(matches!(recognise(bytes), Err(ImageError::UnknownFormat)), "{bytes:?}");
        }
    }
}
