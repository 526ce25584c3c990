//! The tensor types of the protocol and their bytes on the wire, little-endian and without padding.

use half::f16;

use crate::api::Problem;
use crate::api::problem::quoted;
use crate::api::signature::Kind;

/// Type of the elements of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
    Bytes,
}

/// Elements as the models take them.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Elements {
    /// Any of the number types.
    Numbers(Vec<f64>),
    /// Elements of a `BYTES` tensor.
    Texts(Vec<Vec<u8>>),
}

impl Elements {
    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.len(),
            Self::Texts(texts) => texts.len(),
        }
    }
}

const NAMES: [(&str, Datatype); 13] = [
    ("BOOL", Datatype::Bool),
    ("UINT8", Datatype::Uint8),
    ("UINT16", Datatype::Uint16),
    ("UINT32", Datatype::Uint32),
    ("UINT64", Datatype::Uint64),
    ("INT8", Datatype::Int8),
    ("INT16", Datatype::Int16),
    ("INT32", Datatype::Int32),
    ("INT64", Datatype::Int64),
    ("FP16", Datatype::Fp16),
    ("FP32", Datatype::Fp32),
    ("FP64", Datatype::Fp64),
    ("BYTES", Datatype::Bytes),
];

impl Kind {
    /// The wire type of such a tensor.
    pub(super) fn datatype(self) -> Datatype {
        match self {
            Self::Float => Datatype::Fp32,
            Self::Text => Datatype::Bytes,
        }
    }
}

impl Datatype {
    /// Its name in JSON.
    pub(super) fn name(self) -> &'static str {
        NAMES.iter().find(|(_, known)| *known == self).map_or("BYTES", |(name, _)| name)
    }

    /// The type with that name.
    pub(super) fn parse(name: &str) -> Result<Self, Problem> {
        let known = NAMES.iter().find(|(known, _)| *known == name);
        known
            .map(|(_, datatype)| *datatype)
            .ok_or_else(|| Problem::Malformed(format!("unknown datatype {}", quoted(name))))
    }

    /// Bytes per element; `None` for `BYTES`, whose elements carry their own length.
    pub(super) fn width(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }

    /// Bytes per element in [`Elements`], without the contents of a text.
    pub(super) fn size_in_memory(self) -> usize {
        if self == Self::Bytes { size_of::<Vec<u8>>() } else { size_of::<f64>() }
    }

    /// Reads a binary tensor of `count` elements; `None` if the number of bytes does not fit.
    pub(super) fn read(self, bytes: &[u8], count: usize) -> Option<Elements> {
        let Some(width) = self.width() else {
            return read_texts(bytes, count).map(Elements::Texts);
        };
        if count.checked_mul(width) != Some(bytes.len()) {
            return None;
        }
        Some(Elements::Numbers(bytes.chunks_exact(width).map(|bytes| self.number(bytes)).collect()))
    }

    /// Decodes one number from exactly as many bytes as its type has.
    fn number(self, bytes: &[u8]) -> f64 {
        let mut eight = [0; 8];
        eight[..bytes.len()].copy_from_slice(bytes);
        let [a, b, c, d, ..] = eight;
        let whole = u64::from_le_bytes(eight);
        match self {
            Self::Bool | Self::Uint8 | Self::Uint16 | Self::Uint32 | Self::Uint64 => whole as f64,
            Self::Int8 => f64::from(i8::from_le_bytes([a])),
            Self::Int16 => f64::from(i16::from_le_bytes([a, b])),
            Self::Int32 => f64::from(i32::from_le_bytes([a, b, c, d])),
            Self::Int64 => i64::from_le_bytes(eight) as f64,
            Self::Fp16 => f16::from_le_bytes([a, b]).to_f64(),
            Self::Fp32 => f64::from(f32::from_le_bytes([a, b, c, d])),
            Self::Fp64 => f64::from_le_bytes(eight),
            Self::Bytes => f64::NAN,
        }
    }
}

/// Elements of a `BYTES` tensor: each a 32-bit length and that many bytes.
fn read_texts(mut bytes: &[u8], count: usize) -> Option<Vec<Vec<u8>>> {
    let mut texts = Vec::with_capacity(count.min(bytes.len() / 4));
    for _ in 0..count {
        let (length, rest) = bytes.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (text, rest) = rest.split_at_checked(length)?;
        texts.push(text.to_vec());
        bytes = rest;
    }
    bytes.is_empty().then_some(texts)
}

#[cfg(test)]
mod tests {
    use half::f16;
    use proptest::prelude::*;

    use super::{Datatype, Elements};

    #[test]
    fn numbers_are_little_endian() {
        for (datatype, bytes, value) in [
            (Datatype::Bool, vec![1], 1.0),
            (Datatype::Uint16, vec![1, 2], 513.0),
            (Datatype::Int8, vec![0xFF], -1.0),
            (Datatype::Int64, (-5i64).to_le_bytes().to_vec(), -5.0),
            (Datatype::Fp16, f16::from_f32(1.5).to_le_bytes().to_vec(), 1.5),
            (Datatype::Fp32, 2.5f32.to_le_bytes().to_vec(), 2.5),
            (Datatype::Fp64, 0.1f64.to_le_bytes().to_vec(), 0.1),
        ] {
            assert_eq!(datatype.read(&bytes, 1), Some(Elements::Numbers(vec![value])));
            assert_eq!(datatype.read(&[], 0), Some(Elements::Numbers(Vec::new())));
            assert_eq!(datatype.read(&bytes, usize::MAX), None);
        }
        assert_eq!(Datatype::Fp32.read(&[1, 2, 3], 1), None);
    }

    #[test]
    fn texts_say_their_length() {
        let bytes = [2, 0, 0, 0, b'h', b'i', 0, 0, 0, 0];
        let texts = vec![b"hi".to_vec(), Vec::new()];
        assert_eq!(Datatype::Bytes.read(&bytes, 2), Some(Elements::Texts(texts)));
        assert_eq!(Datatype::Bytes.read(&bytes, 1), None);
        assert_eq!(Datatype::Bytes.read(&bytes, 3), None);
        assert_eq!(Datatype::Bytes.read(&bytes[..5], 2), None);
        assert_eq!(Datatype::Bytes.read(&[0xFF; 4], 1), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            count in prop_oneof![0usize..20, any::<usize>()],
        ) {
            for (_, datatype) in super::NAMES {
                let _elements = datatype.read(&bytes, count);
            }
        }
    }
}
