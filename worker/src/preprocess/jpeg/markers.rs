//! The segments of a JPEG file.

/// The marker `EOI`, which ends a picture.
pub(super) const END_OF_IMAGE: u8 = 0xD9;

/// Skips to the next marker, past entropy-coded data and its stuffed zeros.
pub(super) fn next(rest: &mut &[u8]) -> Option<u8> {
    loop {
        let start = position_of_ff(rest)?;
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

/// The content of a segment whose marker has been read.
pub(super) fn payload<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::from(u16::from_be_bytes(*rest.first_chunk()?));
    let content = rest.get(2..length)?;
    *rest = &rest[length..];
    Some(content)
}

/// Searches eight bytes at a time: entropy-coded data is long and 0xFF is rare.
fn position_of_ff(bytes: &[u8]) -> Option<usize> {
    let (words, tail) = bytes.as_chunks::<8>();
    let clean = words.iter().position(|word| has_ff(u64::from_be_bytes(*word)));
    let skipped = clean.map_or(bytes.len() - tail.len(), |word| word * 8);
    bytes[skipped..].iter().position(|&byte| byte == 0xFF).map(|at| skipped + at)
}

/// Whether one of the eight bytes is 0xFF.
pub(super) fn has_ff(word: u64) -> bool {
    const LOW: u64 = 0x0101_0101_0101_0101;
    // A byte of the complement is zero where a byte is 0xFF.
    (!word).wrapping_sub(LOW) & word & (LOW << 7) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_ff_sees_every_byte_and_only_ff() {
        for at in 0..8 {
            assert!(has_ff(0xFF << (8 * at)));
            assert!(!has_ff(0xFE << (8 * at)));
        }
        assert!(!has_ff(0x7F80_0100_FE01_8000));
    }
}
