//! Bodies and files that are almost valid, read as the fuzz targets read any bytes.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod harm;
mod judge;

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use harm::{files, fixtures, harm, seeds};
use hyper::HeaderMap;
use message::tf_serving::Verb;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use worker::api::reading::Protocol;

/// Replaces some bytes, or repeats them.
#[derive(Debug, Clone)]
enum Edit {
    Replace(Index, usize, Vec<u8>),
    Repeat(Index, usize, usize),
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let range = |at: &Index, length: usize| {
            let at = at.index(bytes.len() + 1);
            at..(at + length).min(bytes.len())
        };
        match self {
            Self::Replace(at, length, with) => {
                let range = range(at, *length);
                bytes.splice(range, with.iter().copied());
            }
            Self::Repeat(at, length, times) => {
                let range = range(at, *length);
                let piece = bytes[range.clone()].repeat(*times);
                bytes.splice(range, piece);
            }
        }
    }
}

/// One of `seeds`, in which some bytes are replaced by one of `pieces` or by any bytes.
fn edited(seeds: Vec<Vec<u8>>, pieces: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        3 => select(pieces).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    let edit = prop_oneof![
        4 => (any::<Index>(), 0usize..20, piece).prop_map(|(at, cut, with)| Edit::Replace(at, cut, with)),
        1 => (any::<Index>(), 1usize..60, 2usize..300).prop_map(|(at, of, n)| Edit::Repeat(at, of, n)),
    ];
    (select(seeds), prop::collection::vec(edit, 0..5)).prop_map(|(mut bytes, edits)| {
        for edit in edits {
            edit.apply(&mut bytes);
        }
        bytes
    })
}

/// The seeds of a fuzz target.
fn seeds_of(target: &str) -> Vec<Vec<u8>> {
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target))
}

fn owned(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

/// JSON that means something, or breaks something.
const JSON: &[&str] = &[
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "\"",
    "[]",
    "{}",
    "[[",
    "]]",
    "null",
    "true",
    "NaN",
    "-Infinity",
    "1e39",
    "1e999",
    "-0",
    "16777216",
    "18446744073709551616",
    "\"b64\"",
    "{\"b64\": \"aGk=\"}",
    "\\u0000",
    "\\ud800",
    "\\",
    "\u{feff}",
    "\"instances\"",
    "\"inputs\"",
    "\"examples\"",
    "\"size\"",
    "\"colour\"",
    "\"image\"",
    "\"shape\"",
    "\"datatype\"",
    "\"data\"",
    "\"outputs\"",
    "\"parameters\"",
    "\"binary_data_size\"",
    "\"classification\"",
    "\"FP32\"",
    "\"BYTES\"",
    "99999999",
];

const FORM: &str = "--xx\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nmnist\r\n\
    --xx\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a\"\r\nContent-Type: image/png\r\n\r\nPIXELS\r\n--xx--\r\n";
const FORM_PIECES: &[&str] = &[
    "--xx",
    "--xx--",
    "\r\n",
    "\r\n\r\n",
    "\n",
    "name=\"image\"",
    "name=image",
    "name*=UTF-8''image",
    "IMAGE_URL",
    "top_k",
    "number_backend_servers",
    "Content-Transfer-Encoding: base64\r\n",
    "\"",
    "\\",
    ";",
    "%",
    "%00",
    "&",
    "=",
    "+",
];
const TYPES: &[&str] = &[
    "multipart/form-data; boundary=xx",
    "multipart/form-data; boundary=\"xx\"",
    "multipart/form-data",
    "multipart/mixed; boundary=xx",
    "application/x-www-form-urlencoded",
    "image/png",
    "",
    "multipart/form-data; boundary=xx; boundary=y",
];

const SQL_PIECES: &[&str] = &[
    "CREATE",
    "MODEL",
    "OPTIONS(",
    ")",
    "(",
    "'",
    "\"",
    "`",
    "[",
    "]",
    ",",
    ";",
    "--",
    "/*",
    "*/",
    "=",
    "NULL",
    "1e308",
    "-1",
    "0.0",
    "SELECT",
    "FROM",
    "WHERE 0",
    "LIMIT 0",
    "UNION ALL",
    "AS",
    "label",
    "length*1e200",
    "é",
    "\0",
    "IF NOT EXISTS",
    "TRANSFORM",
    "max_iterations=0",
    "l2_reg=-1",
    "data_split_eval_fraction=1",
    "randomblob(8)",
    "zeroblob(100)",
    "x'00'",
];

/// The name of a content coding, and a body in it.
type Packed = (&'static str, Vec<u8>);

fn packed(plain: &[u8]) -> [Packed; 3] {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(plain).unwrap();
    let mut deflate = ZlibEncoder::new(Vec::new(), Compression::fast());
    deflate.write_all(plain).unwrap();
    [("", plain.to_vec()), ("gzip", gzip.finish().unwrap()), ("deflate", deflate.finish().unwrap())]
}

/// The TIFF library reserves memory for as many values as an entry announces.
#[test]
fn a_tiff_announces_no_more_values_than_it_has_bytes() {
    let mut entries = 0;
    for seed in seeds().into_iter().filter(|seed| seed.starts_with(b"II*\0")) {
        let word = |at: usize| u32::from_le_bytes(seed[at..at + 4].try_into().unwrap()) as usize;
        let directory = word(4);
        for entry in 0..word(directory) & 0xFFFF {
            for count in [0x0011_0001_u32, 0x0070_0000] {
                let (mut bytes, at) = (seed.clone(), directory + 2 + 12 * entry + 4);
                bytes[at..at + 4].copy_from_slice(&count.to_le_bytes());
                judge::picture(&bytes);
            }
            entries += 1;
        }
    }
    assert!(entries > 8, "only {entries} entries");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn pictures(mut bytes in select(seeds()), harms in prop::collection::vec(harm(), 0..3)) {
        for harm in harms {
            if !bytes.is_empty() {
                harm.apply(&mut bytes);
            }
        }
        judge::picture(&bytes);
    }

    #[test]
    fn photos(mut bytes in select(fixtures("jpeg")), harms in prop::collection::vec(harm(), 0..3)) {
        for harm in harms {
            if !bytes.is_empty() {
                harm.apply(&mut bytes);
            }
        }
        judge::jpeg(&bytes);
    }

    #[test]
    fn bodies_of_tf_serving(bytes in edited(seeds_of("tf_json"), JSON)) {
        judge::tf_json(&bytes);
    }

    #[test]
    fn bodies_of_open_inference(bytes in edited(seeds_of("oip"), JSON)) {
        judge::open_inference(&bytes);
    }

    #[test]
    fn uploads(kind in select(TYPES), plain in edited(owned(&[FORM, "model=mnist&IMAGE_URL=http%3A%2F%2Fa%2F"]), FORM_PIECES), coding in 0usize..3, query in "[a-z_=&%0-9]{0,20}") {
        let (coding, body) = &packed(&plain)[coding];
        judge::upload((kind.as_bytes(), coding.as_bytes(), &query, body));
    }

    #[test]
    fn statements(bytes in edited(seeds_of("sql"), SQL_PIECES)) {
        judge::sql(&bytes);
    }

    #[test]
    fn checkpoints(bytes in edited(seeds_of("checkpoint"), JSON)) {
        judge::checkpoint(&bytes);
    }
}

/// A string in the format of a pickle.
fn text(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap().to_le_bytes();
    [b"X", &length[..], text.as_bytes()].concat()
}

/// An archive as written by `torch.save`, with nothing but its pickle.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    archive.start_file("archive/data.pkl", stored).unwrap();
    archive.write_all(pickle).unwrap();
    archive.finish().unwrap().into_inner()
}

/// A pickle can refer to an object that it has built any number of times.
#[test]
fn what_a_checkpoint_shares_is_not_copied_for_each_that_shares_it() {
    const SHARERS: u32 = 300;
    let (long, short) = ("a".repeat(1 << 20), "0".to_owned());
    let class = b"h\0h\0\x93".repeat(SHARERS as usize);
    judge::checkpoint(&archive(&[&text(&long), &b"q\0"[..], &class, b"."].concat()));
    for (file, sides) in [(&long, 1), (&short, 100_000)] {
        let counts = [&b"("[..], &b"K\x01".repeat(sides), b"t"].concat();
        let tensor = [
            &b"ctorch._utils\n_rebuild_tensor_v2\n(("[..],
            &[text("storage"), b"ctorch\nFloatStorage\n".to_vec()].concat(),
            &[text(file), text("cpu")].concat(),
            b"K\x01tQK\0",
            &counts.repeat(2),
            b"tRq\0",
        ]
        .concat();
        let sharer = |at: u32| [text(&at.to_string()), b"h\0".to_vec()].concat();
        let sharers: Vec<u8> = (0..SHARERS).flat_map(sharer).collect();
        judge::checkpoint(&archive(&[&tensor[..], b"0}(", &sharers, b"u."].concat()));
    }
}

fn segment(marker: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len() + 2).unwrap();
    [&[0xFF, marker], &length.to_be_bytes()[..], content].concat()
}

/// A Huffman code with a single symbol, encoded as a zero bit.
fn code(place: u8, symbol: u8) -> Vec<u8> {
    let mut table = vec![place, 1];
    table.extend([0; 15]);
    table.push(symbol);
    segment(0xC4, &table)
}

#[test]
fn a_progressive_photo_of_a_hundred_empty_scans() {
    const SIDE: u16 = 4000;
    let blocks = usize::from(SIDE.div_ceil(8)).pow(2);
    let side = SIDE.to_be_bytes();
    let frame = [&[8], &side[..], &side, &[1, 1, 0x11, 0]].concat();
    // An end-of-band run of up to 32,767 blocks: one bit, and 14 that give the number.
    let mut bytes = [
        b"\xFF\xD8".to_vec(),
        segment(0xDB, &[&[0][..], &[1; 64]].concat()),
        segment(0xC2, &frame),
        code(0x00, 0),
        code(0x10, 0xE0),
        segment(0xDA, &[1, 1, 0, 0, 0, 0]),
        vec![0; blocks.div_ceil(8)],
    ]
    .concat();
    for place in 1..=7 {
        for bit in (0..14).rev() {
            let before = if bit == 13 { 0 } else { bit + 1 };
            bytes.extend(segment(0xDA, &[1, 1, 0, place, place, before << 4 | bit]));
            // Each is 15 bits long: 0, and the highest number of blocks.
            let ends = blocks.div_ceil(32_767);
            let bits = std::iter::repeat_n([false].into_iter().chain([true; 14]), ends).flatten();
            let mut packed: Vec<bool> = bits.collect();
            packed.resize(packed.len().next_multiple_of(8), true);
            for byte in packed.chunks(8) {
                let byte = byte.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
                bytes.push(byte);
                if byte == 0xFF {
                    bytes.push(0);
                }
            }
        }
    }
    bytes.extend(b"\xFF\xD9");
    judge::picture(&bytes);
    judge::jpeg(&bytes);
}

#[test]
fn a_tiff_of_strips_that_are_all_the_same_photo_behind_many_segments() {
    const STRIPS: u32 = 60_000;
    const ENTRIES: u16 = 30_000;
    let photo = [b"\xFF\xD8".to_vec(), segment(0xE0, b"").repeat(20_000)].concat();
    let photo_at = 8 + 2 + 12 * u32::from(ENTRIES) + 4;
    let strips_at = photo_at + u32::try_from(photo.len()).unwrap();
    let mut bytes = b"II\x2a\0\x08\0\0\0".to_vec();
    bytes.extend(ENTRIES.to_le_bytes());
    let known: [(u16, u32, u32); 8] = [
        (256, 1, 8),
        (257, 1, STRIPS),
        (258, 1, 8),
        (259, 1, 7),
        (262, 1, 1),
        (277, 1, 1),
        (278, 1, 1),
        (273, STRIPS, strips_at),
    ];
    // The strips come last, after entries without a meaning.
    for number in 0..ENTRIES {
        let at = (usize::from(number) + known.len()).checked_sub(usize::from(ENTRIES));
        let (tag, count, value) = at.map_or((60_000, 1, 0), |at| known[at]);
        bytes.extend([tag.to_le_bytes(), 4u16.to_le_bytes()].concat());
        bytes.extend([count.to_le_bytes(), value.to_le_bytes()].concat());
    }
    bytes.extend([0; 4]);
    bytes.extend(photo);
    (0..STRIPS).for_each(|_| bytes.extend(photo_at.to_le_bytes()));
    judge::picture(&bytes);
}

/// A client chooses the number of objects and of their members, and the model has a number of
/// columns: the work must not be a product of any two of these.
#[test]
fn members_are_looked_up_once_however_many_examples_and_columns_there_are() {
    let junk = r#""":0,"#.repeat(100_000);
    let columns: Vec<String> = (0..4096).map(|at| format!(r#""c{at}":1"#)).collect();
    let lists: Vec<String> = (0..4096).map(|at| format!(r#""c{at}":[1]"#)).collect();
    let (columns, lists) = (columns.join(","), lists.join(","));
    let (wide, last) = ([judge::wide()], r#""c4095":1,"#.repeat(100_000));
    let examples = vec!["{}"; 65_536].join(",");
    judge::tf_json(
        format!(r#"{{"context": {{{junk}"size":1}}, "examples": [{examples}]}}"#).as_bytes(),
    );
    for (verb, body) in [
        (Verb::Regress, format!(r#"{{"context": {{{junk}{columns}}}, "examples": [{{}},{{}}]}}"#)),
        (Verb::Regress, format!(r#"{{"examples": [{{{junk}{columns}}}, {{{columns}}}]}}"#)),
        (Verb::Predict, format!(r#"{{"instances": [{{{last}{columns}}}]}}"#)),
        (Verb::Predict, format!(r#"{{"instances": [{{{columns}}}, {{{columns}}}]}}"#)),
        (Verb::Predict, format!(r#"{{"inputs": {{{junk}{lists}}}}}"#)),
    ] {
        judge::rows_of(&wide, Protocol::TfServing(verb), body.as_bytes());
    }
    let tensor =
        |at: usize| format!(r#"{{"name":"c{at}","shape":[1],"datatype":"FP32","data":[1]}}"#);
    let tensors: Vec<String> = (0..4096).map(tensor).collect();
    let body = format!(r#"{{"inputs": [{}]}}"#, tensors.join(","));
    judge::rows_of(&wide, Protocol::OpenInference(&HeaderMap::new()), body.as_bytes());
}
