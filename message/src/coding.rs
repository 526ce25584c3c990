//! Compressed bodies: gzip and deflate, decompressed piece by piece and never beyond a limit.

use std::fmt;
use std::io::{self, BufRead, ErrorKind, Read};

use flate2::bufread::{DeflateDecoder, GzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

use crate::{Refusal, malformed, shown};

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// `gzip`, also called `x-gzip`.
    Gzip,
    /// zlib, and the bare deflate stream that some clients send under this name.
    Deflate,
}

/// Most bytes that are decompressed in one step.
const PIECE: usize = 32 * 1024;
/// Compressed bytes that are read in one step: a kilobyte can hold many code tables that expand to
/// nothing.
const DOSE: usize = 2 * 1024;
/// Most gzip streams in a row.
const MOST_MEMBERS: usize = 16;

impl Coding {
    /// Reads the content coding; `None` for a body that is not compressed.
    pub fn of(fields: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let mut found = None;
        let lines = fields.get_all(CONTENT_ENCODING).iter();
        for name in lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')) {
            let name = name.trim_ascii();
            let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
            let coding = if name.is_empty() || is(b"identity") {
                continue;
            } else if is(b"gzip") || is(b"x-gzip") {
                Self::Gzip
            } else if is(b"deflate") {
                Self::Deflate
            } else {
                let text = format!(
                    "a body packed as \"{}\" is not read here, only gzip and deflate",
                    shown(name)
                );
                return Err(Refusal::Unsupported(text.into()));
            };
            if found.replace(coding).is_some() {
                return Err(Refusal::Unsupported("the body is packed more than once".into()));
            }
        }
        Ok(found)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }
}

/// A body that is being decompressed, in steps that each take a fraction of a millisecond.
pub struct Unpacking<'a> {
    coding: Coding,
    decoder: Decoder<'a>,
    members: usize,
    limit: usize,
}

enum Decoder<'a> {
    Gzip(GzDecoder<Dosed<'a>>),
    Zlib(ZlibDecoder<Dosed<'a>>),
    Deflate(DeflateDecoder<Dosed<'a>>),
}

impl fmt::Debug for Unpacking<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpacking").field("coding", &self.coding).finish_non_exhaustive()
    }
}

impl<'a> Unpacking<'a> {
    /// Begins to decompress `packed` into at most `limit` bytes.
    pub fn new(coding: Coding, packed: &'a [u8], limit: usize) -> Self {
        let dosed = Dosed { bytes: packed, left: 0 };
        let decoder = match coding {
            Coding::Gzip => Decoder::Gzip(GzDecoder::new(dosed)),
            Coding::Deflate if is_zlib(packed) => Decoder::Zlib(ZlibDecoder::new(dosed)),
            Coding::Deflate => Decoder::Deflate(DeflateDecoder::new(dosed)),
        };
        Self { coding, decoder, members: 1, limit }
    }

    /// Runs one step, which appends to `plain`; returns how many bytes it appended, or `None` at
    /// the end. As long as there is room in `plain`, it allocates nothing.
    pub fn step(&mut self, plain: &mut Vec<u8>) -> Result<Option<usize>, Refusal> {
        let before = plain.len();
        // One byte more than allowed distinguishes a body of exactly the limit from a larger one.
        let most = PIECE.min(self.limit.saturating_sub(before).saturating_add(1));
        let room = plain.capacity() - before;
        let most = if room > 0 { most.min(room) } else { most };
        let read = self.decoder.read(most, plain);
        let came = plain.len() - before;
        if plain.len() > self.limit {
            return Err(Refusal::TooLarge(self.limit));
        }
        match read {
            Ok(read) if read < most => self.end_of_stream(came),
            Ok(read) => Ok(Some(read)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Some(came)),
            Err(error) => {
                let name = self.coding.name();
                Err(malformed(format!("the {name} body does not unpack: {error}")))
            }
        }
    }

    fn end_of_stream(&mut self, came: usize) -> Result<Option<usize>, Refusal> {
        let rest = self.decoder.rest();
        if rest.is_empty() {
            return Ok((came > 0).then_some(came));
        }
        if self.coding == Coding::Gzip && rest.starts_with(&GZIP) && self.members < MOST_MEMBERS {
            self.members += 1;
            self.decoder = Decoder::Gzip(GzDecoder::new(Dosed { bytes: rest, left: 0 }));
            return Ok(Some(came));
        }
        Err(malformed(format!("more bytes follow the {} body", self.coding.name())))
    }
}

/// The first bytes of a gzip stream.
const GZIP: [u8; 2] = [0x1f, 0x8b];

impl<'a> Decoder<'a> {
    /// Decompresses at most `most` bytes from one dose.
    fn read(&mut self, most: usize, plain: &mut Vec<u8>) -> io::Result<usize> {
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        match self {
            Self::Gzip(decoder) => {
                decoder.get_mut().left = DOSE;
                decoder.take(most).read_to_end(plain)
            }
            Self::Zlib(decoder) => {
                decoder.get_mut().left = DOSE;
                decoder.take(most).read_to_end(plain)
            }
            Self::Deflate(decoder) => {
                decoder.get_mut().left = DOSE;
                decoder.take(most).read_to_end(plain)
            }
        }
    }

    fn rest(&self) -> &'a [u8] {
        match self {
            Self::Gzip(decoder) => decoder.get_ref().bytes,
            Self::Zlib(decoder) => decoder.get_ref().bytes,
            Self::Deflate(decoder) => decoder.get_ref().bytes,
        }
    }
}

/// A reader that hands out at most one dose of bytes, and nothing more until the next dose begins.
#[derive(Debug)]
struct Dosed<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl Read for Dosed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Dosed<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 && !self.bytes.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(&self.bytes[..self.left.min(self.bytes.len())])
    }

    fn consume(&mut self, amount: usize) {
        self.left -= amount;
        self.bytes = &self.bytes[amount..];
    }
}

/// Decompresses a whole body.
pub fn unpack(coding: Coding, packed: &[u8], limit: usize) -> Result<Vec<u8>, Refusal> {
    let mut unpacking = Unpacking::new(coding, packed, limit);
    let mut plain = Vec::new();
    while unpacking.step(&mut plain)?.is_some() {}
    Ok(plain)
}

/// Whether this is a zlib stream (RFC 1950, 2.2): a method, and a check of the first two bytes.
fn is_zlib(packed: &[u8]) -> bool {
    match packed {
        [method, flags, ..] => {
            method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]) % 31 == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(plain: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(plain: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        for (coding, bomb) in [
            (Coding::Gzip, gzip(&vec![0; 10 << 20])),
            (Coding::Deflate, zlib(&vec![0; 10 << 20])),
            (Coding::Deflate, deflate(&vec![0; 10 << 20])),
        ] {
            assert!(bomb.len() < 20_000);
            let mut unpacking = Unpacking::new(coding, &bomb, 100_000);
            let mut plain = Vec::new();
            let refusal = loop {
                if let Err(refusal) = unpacking.step(&mut plain) {
                    break refusal;
                }
            };
            assert_eq!(refusal, Refusal::TooLarge(100_000));
            assert!(plain.capacity() < 400_000);
        }
        assert_eq!(unpack(Coding::Gzip, &gzip(&[7; 1000]), 1000).unwrap().len(), 1000);
        assert!(unpack(Coding::Gzip, &gzip(&[7; 1001]), 1000).is_err());
    }

    #[test]
    fn both_streams_that_are_called_deflate_unpack() {
        let plain = b"--XX\r\nContent-Disposition".repeat(100);
        assert_eq!(unpack(Coding::Deflate, &zlib(&plain), 1 << 20).unwrap(), plain);
        assert_eq!(unpack(Coding::Deflate, &deflate(&plain), 1 << 20).unwrap(), plain);
        assert_eq!(unpack(Coding::Gzip, &[gzip(b"ab"), gzip(b"cd")].concat(), 9).unwrap(), b"abcd");
        assert!(unpack(Coding::Gzip, &gzip(b"").repeat(1000), 9).is_err());
        let noise: Vec<u8> =
            (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        assert_eq!(unpack(Coding::Gzip, &gzip(&noise), 1 << 20).unwrap(), noise);
    }

    #[test]
    fn cut_and_lengthened_bodies_are_malformed() {
        for (coding, whole) in [(Coding::Gzip, gzip(b"abc")), (Coding::Deflate, zlib(b"abc"))] {
            assert!(unpack(coding, &whole[..whole.len() - 1], 100).is_err(), "{coding:?}");
            assert!(unpack(coding, &[&whole[..], b"more"].concat(), 100).is_err(), "{coding:?}");
        }
    }

    #[test]
    fn codings_are_named_as_clients_write_them() {
        let of = |lines: &[&'static str]| {
            let mut fields = HeaderMap::new();
            for line in lines {
                fields.append(CONTENT_ENCODING, HeaderValue::from_static(line));
            }
            Coding::of(&fields)
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["", " Identity"]), Ok(None));
        assert_eq!(of(&["GZip"]), Ok(Some(Coding::Gzip)));
        assert_eq!(of(&["identity", "x-gzip,"]), Ok(Some(Coding::Gzip)));
        assert_eq!(of(&["deflate"]), Ok(Some(Coding::Deflate)));
        for lines in [&["br"][..], &["gzip, gzip"], &["gzip", "gzip"], &["gzip;q=1"], &["zstd"]] {
            assert!(matches!(of(lines), Err(Refusal::Unsupported(_))), "{lines:?}");
        }
    }

    #[test]
    fn a_step_is_short_though_nothing_comes_of_it() {
        // Empty stored blocks, the last of which ends the stream.
        let empty = [[0, 0, 0, 0xff, 0xff].repeat(100_000), vec![1, 0, 0, 0xff, 0xff]].concat();
        let mut unpacking = Unpacking::new(Coding::Deflate, &empty, 100);
        let (mut plain, mut steps) = (Vec::new(), 0);
        while let Some(read) = unpacking.step(&mut plain).unwrap() {
            assert_eq!(read, 0);
            steps += 1;
        }
        assert!(steps >= empty.len() / DOSE, "{steps}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), whole in any::<bool>()) {
            if whole {
                bytes.splice(0..0, gzip(b"hello"));
            }
            for coding in [Coding::Gzip, Coding::Deflate] {
                let _outcome = unpack(coding, &bytes, 100);
            }
        }
    }
}
