//! Takes the metadata out of a JPEG or PNG file without touching a pixel.
//!
//! The photos of the original experiment carry some 20 kB of camera metadata each, which flattens
//! round-trip times against size; a stripped twin shows what the pixels alone cost. The coded image
//! data is copied, never re-encoded.

use bytes::Bytes;

/// `file` without metadata; `None` if there is none to remove, or if it is neither JPEG nor PNG.
pub fn stripped(file: &[u8]) -> Option<Bytes> {
    let stripped = strip_jpeg(file).or_else(|| strip_png(file))?;
    (stripped.len() < file.len()).then(|| Bytes::from(stripped))
}

/// Drops APP1 to APP13, APP15 and comments; APP0 (JFIF) and APP14 (Adobe) say how to read colours.
fn strip_jpeg(file: &[u8]) -> Option<Vec<u8>> {
    let mut rest = file.strip_prefix(&[0xff, 0xd8])?;
    let mut kept = vec![0xff, 0xd8];
    loop {
        let (&[0xff, marker], after) = rest.split_first_chunk::<2>()? else {
            return None;
        };
        if marker == 0xff {
            rest = &rest[1..]; // a fill byte
            continue;
        }
        if marker == 0xda {
            kept.extend_from_slice(rest); // scans: the picture itself, to the end
            return Some(kept);
        }
        let length = usize::from(u16::from_be_bytes(*after.first_chunk::<2>()?));
        let segment = rest.get(..length + 2)?;
        if !matches!(marker, 0xe1..=0xed | 0xef | 0xfe) {
            kept.extend_from_slice(segment);
        }
        rest = &rest[segment.len()..];
    }
}

/// Drops texts, times and Exif; everything that says how to show the pixels stays.
fn strip_png(file: &[u8]) -> Option<Vec<u8>> {
    const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
    let mut rest = file.strip_prefix(SIGNATURE)?;
    let mut kept = SIGNATURE.to_vec();
    while let Some(length) = rest.first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let chunk = rest.get(..length.checked_add(12)?)?;
        if !matches!(&chunk[4..8], b"tEXt" | b"zTXt" | b"iTXt" | b"eXIf" | b"tIME") {
            kept.extend_from_slice(chunk);
        }
        rest = &rest[chunk.len()..];
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::stripped;

    fn jpeg_with(segment: &[u8]) -> Vec<u8> {
        let plain = crate::workload::generated::picture(24).unwrap().bytes;
        [&plain[..2], segment, &plain[2..]].concat()
    }

    #[test]
    fn metadata_goes_and_the_picture_stays_bit_for_bit() {
        let plain = jpeg_with(&[]);
        let with_exif = jpeg_with(&[0xff, 0xe1, 0, 8, b'E', b'x', b'i', b'f', 0, 0]);
        let with_comment = jpeg_with(&[0xff, 0xfe, 0, 4, b'h', b'i']);
        assert_eq!(stripped(&with_exif).unwrap(), plain);
        assert_eq!(stripped(&with_comment).unwrap(), plain);
    }

    #[test]
    fn a_png_loses_its_texts_only() {
        let mut plain = Vec::new();
        image::RgbImage::new(3, 3)
            .write_to(&mut std::io::Cursor::new(&mut plain), image::ImageFormat::Png)
            .unwrap();
        let text = b"\x00\x00\x00\x03tEXta\x00b\x00\x00\x00\x00";
        let end = plain.len() - 12;
        let with_text = [&plain[..end], text, &plain[end..]].concat();
        assert_eq!(stripped(&with_text).unwrap(), plain);
    }

    #[test]
    fn nothing_to_strip_is_none() {
        assert_eq!(stripped(&jpeg_with(&[])), None);
        assert_eq!(stripped(b"GIF89a"), None);
        assert_eq!(stripped(&[]), None);
    }

    proptest! {
        #[test]
        fn any_damage_is_survived(cut in 0_usize..900, at in 0_usize..900, byte in any::<u8>()) {
            let mut file = jpeg_with(&[0xff, 0xe1, 0, 4, 1, 2]);
            file.truncate(cut.max(1));
            let length = file.len();
            file[at % length] = byte;
            let _ignored = stripped(&file);
        }
    }
}
