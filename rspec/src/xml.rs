//! Parses XML text into a tree of elements that know their line.
//!
//! A small tree keeps later checks free of reader state. Only elements of the RSpec v3 namespace
//! and of Emulab's extensions are kept; the rest is skipped. The text, its depth and its characters
//! are bounded, and no document type is read, so nothing in a request can expand.

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;

use crate::RspecError;

/// The namespace of RSpec v3.
pub(crate) const RSPEC: &str = "http://www.geni.net/resources/rspec/3";
/// The namespace of Emulab's extensions.
pub(crate) const EMULAB: &str = "http://www.protogeni.net/resources/rspec/ext/emulab/1";

/// A request for 10,000 nodes takes about 8 MiB.
const MAX_BYTES: usize = 32 << 20;
const MAX_DEPTH: usize = 32;

/// Name and value.
type Attribute = (String, String);

/// One element; attributes with a prefix belong to other namespaces and are left out.
#[derive(Debug)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) space: Space,
    pub(crate) line: usize,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) children: Vec<Element>,
}

/// The namespace that an element belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Rspec,
    Emulab,
    Other,
}

impl Element {
    /// An error about one attribute of this element.
    pub(crate) fn attribute_error(
        &self,
        attribute: &str,
        problem: impl Into<String>,
    ) -> RspecError {
        RspecError::Attribute {
            line: self.line,
            element: self.name.clone(),
            attribute: attribute.to_owned(),
            problem: problem.into(),
        }
    }

    /// An error about a child that the schema does not allow there.
    pub(crate) fn misplaced(&self, child: &Element) -> RspecError {
        RspecError::Unexpected {
            line: child.line,
            found: format!("<{}>", child.name),
            parent: self.name.clone(),
        }
    }

    /// The value of an attribute, if it is present and not empty: editors leave empty ones behind.
    pub(crate) fn said(&self, attribute: &str) -> Option<&str> {
        self.optional(attribute).filter(|value| !value.trim().is_empty())
    }

    /// The value of an attribute, if it is present.
    pub(crate) fn optional(&self, attribute: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(name, _)| name == attribute);
        found.map(|(_, value)| value.as_str())
    }

    /// The value of an attribute that must be present and not empty.
    pub(crate) fn required(&self, attribute: &str) -> Result<&str, RspecError> {
        match self.optional(attribute) {
            None => Err(self.attribute_error(attribute, "is missing")),
            Some(value) if value.trim().is_empty() => {
                Err(self.attribute_error(attribute, "is empty"))
            }
            Some(value) => Ok(value),
        }
    }

    /// Refuses attributes that the schema does not know, which are mostly misspelt ones.
    pub(crate) fn allow(&self, known: &[&str]) -> Result<(), RspecError> {
        match self.attributes.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => {
                let problem = format!("is unknown; known are {}", known.join(", "));
                Err(self.attribute_error(name, problem))
            }
            None => Ok(()),
        }
    }
}

/// Reads the one root element of `text`.
pub(crate) fn read(text: &str) -> Result<Element, RspecError> {
    if text.len() > MAX_BYTES {
        return Err(RspecError::TooLarge { bytes: text.len(), limit: MAX_BYTES });
    }
    TreeBuilder { text, line: 1, seen: 0, open: Vec::new(), root: None }.build()
}

/// Builds the tree from the events of the reader.
struct TreeBuilder<'a> {
    text: &'a str,
    line: usize,
    /// Number of bytes whose line breaks have been counted.
    seen: usize,
    /// Elements that have been opened and not closed, outermost first.
    open: Vec<Element>,
    root: Option<Element>,
}

impl TreeBuilder<'_> {
    fn build(mut self) -> Result<Element, RspecError> {
        let mut reader = NsReader::from_str(self.text);
        reader.config_mut().expand_empty_elements = true;
        loop {
            self.advance(reader.buffer_position());
            let (space, event) = match reader.read_resolved_event() {
                Ok((resolved, event)) => (space_of(&resolved), event),
                Err(error) => {
                    let position = reader.error_position();
                    self.advance(position);
                    return Err(self.syntax(error.to_string()));
                }
            };
            match event {
                Event::Start(start) => self.start(&start, space)?,
                Event::End(_) => self.end(),
                Event::Text(text) => self.content(&text)?,
                Event::CData(_) | Event::GeneralRef(_) => self.stray_text("text")?,
                Event::DocType(_) => return Err(self.syntax("a document type is not allowed")),
                Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
                Event::Eof => return self.finish(),
            }
        }
    }

    fn advance(&mut self, position: u64) {
        let end = usize::try_from(position).unwrap_or(usize::MAX).min(self.text.len());
        if end > self.seen {
            let breaks = self.text.as_bytes()[self.seen..end].iter().filter(|&&b| b == b'\n');
            self.line += breaks.count();
            self.seen = end;
        }
    }

    fn syntax(&self, problem: impl Into<String>) -> RspecError {
        RspecError::Syntax { line: self.line, problem: problem.into() }
    }

    fn start(&mut self, start: &BytesStart<'_>, space: Space) -> Result<(), RspecError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(self.syntax(format!("elements are nested deeper than {MAX_DEPTH}")));
        }
        if self.open.is_empty() && self.root.is_some() {
            return Err(self.syntax("a second root element"));
        }
        let attributes = self.attributes(start)?;
        let name = start.local_name().as_ref().to_owned();
        self.open.push(Element { name, space, line: self.line, attributes, children: Vec::new() });
        Ok(())
    }

    fn attributes(&self, start: &BytesStart<'_>) -> Result<Vec<Attribute>, RspecError> {
        let mut attributes = Vec::new();
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| self.syntax(error.to_string()))?;
            let name = attribute.key.as_ref();
            let value = attribute
                .normalized_value(XmlVersion::Explicit1_0)
                .map_err(|error| self.syntax(error.to_string()))?;
            if let Some(bad) = value.chars().find(|&c| !is_xml_char(c)) {
                let code = u32::from(bad);
                return Err(self.syntax(format!("character {code:#x} in attribute `{name}`")));
            }
            if !name.contains(':') && name != "xmlns" {
                attributes.push((name.to_owned(), value.into_owned()));
            }
        }
        Ok(attributes)
    }

    fn end(&mut self) {
        let Some(element) = self.open.pop() else { return };
        match self.open.last_mut() {
            // What lies inside a foreign element is its owner's business.
            Some(parent) if element.space != Space::Other && parent.space != Space::Other => {
                parent.children.push(element);
            }
            Some(_) => {}
            None => self.root = Some(element),
        }
    }

    fn content(&self, text: &str) -> Result<(), RspecError> {
        let trimmed = text.trim();
        if trimmed.is_empty() || trimmed == "\u{feff}" { Ok(()) } else { self.stray_text(trimmed) }
    }

    fn stray_text(&self, text: &str) -> Result<(), RspecError> {
        let (found, line) = (format!("text `{}`", shorten(text)), self.line);
        match self.open.last() {
            Some(parent) if parent.space == Space::Other => Ok(()),
            Some(parent) => {
                Err(RspecError::Unexpected { line, found, parent: parent.name.clone() })
            }
            None => Err(self.syntax(format!("{found} outside the root element"))),
        }
    }

    fn finish(self) -> Result<Element, RspecError> {
        if let Some(open) = self.open.last() {
            let problem = format!("<{}> of line {} is not closed", open.name, open.line);
            return Err(self.syntax(problem));
        }
        match self.root {
            Some(root) => Ok(root),
            None => {
                Err(RspecError::Syntax { line: self.line, problem: "there is no element".into() })
            }
        }
    }
}

fn space_of(resolved: &ResolveResult<'_>) -> Space {
    match resolved {
        ResolveResult::Bound(namespace) if namespace.as_ref() == RSPEC => Space::Rspec,
        ResolveResult::Bound(namespace) if namespace.as_ref() == EMULAB => Space::Emulab,
        ResolveResult::Bound(_) | ResolveResult::Unbound | ResolveResult::Unknown(_) => {
            Space::Other
        }
    }
}

/// The characters that XML 1.0 allows at all.
fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

fn shorten(text: &str) -> String {
    const LIMIT: usize = 40;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
