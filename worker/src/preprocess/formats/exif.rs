//! The orientation in an EXIF block, which is the beginning of a TIFF file.

use image::metadata::Orientation;

const ORIENTATION: u16 = 0x0112;
/// The prefix of the block in a JPEG; some writers put it into other formats too.
const PREFIX: &[u8] = b"Exif\0\0";

/// The orientation in the first directory of the block; an invalid value counts as upright. `None`
/// if the block is damaged or has no such entry.
pub(in crate::preprocess) fn orientation(mut block: &[u8]) -> Option<Orientation> {
    while let Some(rest) = block.strip_prefix(PREFIX) {
        block = rest;
    }
    let order = Order::of(block)?;
    let directory = block.get(order.long(block.get(4..)?)? as usize..)?;
    let count = usize::from(order.short(directory)?);
    let entries = directory[2..].as_chunks::<12>().0.iter().take(count);
    let entry = entries.into_iter().find(|entry| order.short(&entry[..]) == Some(ORIENTATION))?;
    let value = match (order.short(&entry[2..])?, order.long(&entry[4..])?) {
        (1 | 6, 1) => u32::from(entry[8]),
        (3 | 8, 1) => u32::from(order.short(&entry[8..])?),
        (4 | 9, 1) => order.long(&entry[8..])?,
        _ => return None,
    };
    let orientation = u8::try_from(value).ok().and_then(Orientation::from_exif);
    Some(orientation.unwrap_or(Orientation::NoTransforms))
}

/// The byte order of a TIFF structure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Order {
    Little,
    Big,
}

impl Order {
    /// From the first two bytes of the structure.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        match bytes.first_chunk()? {
            b"II" => Some(Self::Little),
            b"MM" => Some(Self::Big),
            _ => None,
        }
    }

    pub(super) fn short(self, bytes: &[u8]) -> Option<u16> {
        let bytes = *bytes.first_chunk()?;
        Some(match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        })
    }

    pub(super) fn long(self, bytes: &[u8]) -> Option<u32> {
        let bytes = *bytes.first_chunk()?;
        Some(match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        })
    }

    pub(super) fn long8(self, bytes: &[u8]) -> Option<u64> {
        let bytes = *bytes.first_chunk()?;
        Some(match self {
            Self::Little => u64::from_le_bytes(bytes),
            Self::Big => u64::from_be_bytes(bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: u16, value: [u8; 4]) -> Vec<u8> {
        let mut block = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01".to_vec();
        block.extend(kind.to_le_bytes());
        block.extend([1, 0, 0, 0]);
        block.extend(value);
        block
    }

    #[test]
    fn every_width_of_number_and_any_prefix_is_read() {
        for kind in [1, 3, 4] {
            let block = block(kind, [6, 0, 0, 0]);
            assert_eq!(orientation(&block), Some(Orientation::Rotate90));
            assert_eq!(orientation(&[PREFIX, &block].concat()), Some(Orientation::Rotate90));
        }
        let big = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0";
        assert_eq!(orientation(big), Some(Orientation::Rotate180));
    }

    #[test]
    fn damage_says_nothing_and_nonsense_turns_nothing() {
        let whole = block(3, [6, 0, 0, 0]);
        for length in 0..whole.len() {
            assert_eq!(orientation(&whole[..length]), None, "{length}");
        }
        assert_eq!(orientation(&block(2, [6, 0, 0, 0])), None);
        assert_eq!(orientation(&block(3, [9, 0, 0, 0])), Some(Orientation::NoTransforms));
    }
}
