//! Parses a `multipart/form-data` body (RFC 7578, RFC 2046) without copying it.
//!
//! The body is complete, so the parts are slices of it. Public libraries read forms from streams
//! and copy every byte once more, which would be the largest cost of a request in the balancer; the
//! tests compare this parser with one of them. What two parsers might read differently is refused:
//! lines that end without a CR, a boundary with trailing text, names in two spellings.

use std::borrow::Cow;

use memchr::memmem::Finder;

use crate::field::{Octets, is_token, parameter, split};
use crate::{Refusal, malformed};

/// The most parts of a form; a page needs three.
pub(crate) const MOST_PARTS: usize = 64;
/// Longest head of a part.
const LONGEST_HEAD: usize = 16 * 1024;

/// One part of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    /// The name of the field, if it has one.
    pub(crate) name: Option<Octets<'a>>,
    /// The bytes between its head and the next boundary.
    pub(crate) content: &'a [u8],
    /// Whether the value is in a transfer coding such as base64.
    pub(crate) is_encoded: bool,
}

/// Hands every part to `each`, in the order of the body.
pub(crate) fn read<'a>(
    body: &'a [u8],
    boundary: &[u8],
    mut each: impl FnMut(Part<'a>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let delimiter = [b"\r\n--", boundary].concat();
    let finder = Finder::new(&delimiter);
    // Without the preceding line break: at the start of the body or of a value.
    let dashes = &delimiter[2..];
    let mut rest = match body.strip_prefix(dashes) {
        Some(rest) => rest,
        None => after(body, &finder).ok_or_else(|| bad("its boundary is nowhere in it"))?.1,
    };
    for _ in 0..=MOST_PARTS {
        let Some(mut content) = next_part(rest)? else { return Ok(()) };
        let head = Head::take(&mut content, dashes)?;
        // A part without a value may leave out its line break.
        let (content, next) = match content.strip_prefix(dashes) {
            Some(next) => (&content[..0], next),
            None => after(content, &finder).ok_or_else(|| bad("it is cut off"))?,
        };
        each(Part { name: head.name, content, is_encoded: head.is_encoded })?;
        rest = next;
    }
    Err(bad("it has more than 64 parts"))
}

/// What precedes a delimiter, and what follows it.
type Halves<'a> = (&'a [u8], &'a [u8]);

/// Both sides of the next delimiter.
fn after<'a>(bytes: &'a [u8], delimiter: &Finder<'_>) -> Option<Halves<'a>> {
    let at = delimiter.find(bytes)?;
    Some((&bytes[..at], &bytes[at + delimiter.needle().len()..]))
}

/// Something that may be missing, or malformed.
type Found<T> = Result<Option<T>, Refusal>;

/// The part after a delimiter; `None` after the last one.
fn next_part(rest: &[u8]) -> Found<&[u8]> {
    if let Some(end) = rest.strip_prefix(b"--") {
        // Text after the last line is ignored, but the line has to end.
        return match end.first() {
            None | Some(b' ' | b'\t' | b'\r' | b'\n') => Ok(None),
            Some(_) => Err(bad("text follows its last boundary")),
        };
    }
    let padding = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    match rest[padding..].strip_prefix(b"\r\n") {
        Some(part) => Ok(Some(part)),
        None if rest.len() - padding < 2 => Err(bad("it is cut off")),
        None => Err(bad("its boundary stands inside of a line")),
    }
}

/// The head of a part.
#[derive(Debug, Default)]
struct Head<'a> {
    name: Option<Octets<'a>>,
    is_encoded: bool,
    has_disposition: bool,
}

impl<'a> Head<'a> {
    /// Reads the lines at the start of `rest` up to the empty one, and removes them from it.
    fn take(rest: &mut &'a [u8], dashes: &[u8]) -> Result<Self, Refusal> {
        let mut head = Self::default();
        let mut left = LONGEST_HEAD;
        loop {
            if let Some(content) = rest.strip_prefix(b"\r\n") {
                *rest = content;
                return Ok(head);
            }
            if rest.starts_with(dashes) {
                return Err(bad("a part has no empty line after its head"));
            }
            let length = line(rest, left)?;
            head.add(&rest[..length])?;
            *rest = &rest[length + 2..];
            left = left.saturating_sub(length + 2);
        }
    }

    fn add(&mut self, field: &'a [u8]) -> Result<(), Refusal> {
        let colon =
            memchr::memchr(b':', field).ok_or_else(|| bad("a line of a head has no colon"))?;
        let (name, value) = (&field[..colon], &field[colon + 1..]);
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return Err(bad("the name of a header field has a strange character"));
        }
        if name.eq_ignore_ascii_case(b"content-disposition") {
            if std::mem::replace(&mut self.has_disposition, true) {
                return Err(bad("a part has two Content-Disposition fields"));
            }
            self.name = disposition(value)?;
        } else if name.eq_ignore_ascii_case(b"content-transfer-encoding") {
            let plain: [&[u8]; 4] = [b"", b"7bit", b"8bit", b"binary"];
            self.is_encoded |= !plain.iter().any(|it| value.trim_ascii().eq_ignore_ascii_case(it));
        }
        Ok(())
    }
}

/// The length of a line with its continuation lines, without the final line break.
fn line(text: &[u8], most: usize) -> Result<usize, Refusal> {
    let mut from = 0;
    loop {
        // A continued line may already have passed the limit.
        let window = text.get(from..text.len().min(most)).unwrap_or_default();
        let at = memchr::memchr3(b'\r', b'\n', 0, window);
        let Some(end) = at.map(|at| from + at) else {
            let is_long = text.len() > most;
            return Err(bad(if is_long {
                "the head of a part is too long"
            } else {
                "it is cut off"
            }));
        };
        if !text[end..].starts_with(b"\r\n") {
            let is_cut = text[end..] == *b"\r";
            return Err(bad(if is_cut {
                "it is cut off"
            } else {
                "a line does not end with CR LF"
            }));
        }
        if !matches!(text.get(end + 2), Some(b' ' | b'\t')) {
            return Ok(end);
        }
        from = end + 2;
    }
}

/// The `name` in a content disposition.
fn disposition(value: &[u8]) -> Found<Octets<'_>> {
    if memchr::memchr(b'\r', value).is_none() {
        return name_of(value);
    }
    // A line break before a continuation counts as a space.
    let unfolded: Vec<u8> =
        value.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }).collect();
    Ok(name_of(&unfolded)?.map(|name| Cow::Owned(name.into_owned())))
}

fn name_of(value: &[u8]) -> Found<Octets<'_>> {
    let mut pieces = split(value, b';');
    if !pieces.next().unwrap_or_default().eq_ignore_ascii_case(b"form-data") {
        return Err(bad("the Content-Disposition of a part is not form-data"));
    }
    let mut found = None;
    for piece in pieces.filter(|piece| !piece.is_empty()) {
        let (name, value) =
            parameter(piece).ok_or_else(|| bad("a Content-Disposition does not parse"))?;
        if name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"name*")) {
            return Err(bad("the name of a field is written as name*, which forms do not have"));
        }
        if name.eq_ignore_ascii_case(b"name") && found.replace(value).is_some() {
            return Err(bad("a part has two names"));
        }
    }
    Ok(found)
}

fn bad(what: &'static str) -> Refusal {
    malformed(format!("the form does not parse: {what}"))
}

#[cfg(test)]
#[path = "multipart_tests.rs"]
mod tests;
