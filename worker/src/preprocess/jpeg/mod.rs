//! What the general decoder does not do for JPEG files.

/// Whether the file goes on to its end-of-image marker.
///
/// Decoders of JPEG fill what is missing with grey instead of complaining; a cut-off upload must
/// be told from a grey photo.
pub(super) fn is_complete(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(marker) = next_marker(&mut rest) {
        match marker {
            0xD9 => return true,
            // Start of image, restart markers and TEM stand alone; the others have a length.
            0x01 | 0xD0..=0xD8 => {}
            _ => {
                let Some(&[high, low]) = rest.first_chunk::<2>() else { return false };
                let length = usize::from(u16::from_be_bytes([high, low]));
                let Some(after) = rest.get(length.max(2)..) else { return false };
                rest = after;
            }
        }
    }
    false
}

/// Skips to the next marker, past entropy-coded data and its stuffed zeros.
fn next_marker(rest: &mut &[u8]) -> Option<u8> {
    loop {
        let start = rest.iter().position(|&byte| byte == 0xFF)?;
        let (&code, after) = rest[start + 1..].split_first()?;
        match code {
            0x00 => *rest = after,
            // Fill byte: the marker follows.
            0xFF => *rest = &rest[start + 1..],
            _ => {
                *rest = after;
                return Some(code);
            }
        }
    }
}
