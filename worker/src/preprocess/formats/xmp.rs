//! The orientation in an XMP packet, used if a file's EXIF has none, and read as Pillow does.

use image::metadata::Orientation;

const NAME: &[u8] = b"tiff:Orientation";
/// Maximum bytes of a packet that are searched.
const LONGEST: usize = 1 << 20;

/// The value of the first attribute or element of that name.
pub(in crate::preprocess) fn orientation(packet: &[u8]) -> Option<Orientation> {
    let mut rest = &packet[..packet.len().min(LONGEST)];
    while let Some(at) = rest.windows(NAME.len()).position(|window| window == NAME) {
        rest = &rest[at + NAME.len()..];
        let value = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"));
        if let Some(digit @ b'0'..=b'9') = value.and_then(|value| value.first().copied()) {
            return Orientation::from_exif(digit - b'0');
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_and_an_element_are_read_and_nothing_else() {
        for (packet, expected) in [
            (&b"<a tiff:Orientation=\"6\"/>"[..], Some(Orientation::Rotate90)),
            (b"<tiff:Orientation>3</tiff:Orientation>", Some(Orientation::Rotate180)),
            (b"</tiff:Orientation>\n<a tiff:Orientation=\"8\"", Some(Orientation::Rotate270)),
            (b"tiff:Orientation=\"9\"", None),
            (b"tiff:Orientation", None),
            (b"tiff:Orientation=\"", None),
            (b"exif:Orientation=\"6\"", None),
            (b"", None),
        ] {
            assert_eq!(orientation(packet), expected, "{}", packet.escape_ascii());
        }
    }
}
