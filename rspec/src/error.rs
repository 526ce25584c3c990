//! What can be wrong with a request, worded so that its author finds the place.
//!
//! An error names the line and the element that it is about; those that concern the request as a
//! whole name neither, and a syntax error only the line.

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RspecError {
    /// The text is longer than any real request.
    #[error("a request of {bytes} bytes is too large: the limit is {limit}")]
    TooLarge {
        /// Length of the text.
        bytes: usize,
        /// The longest text that is read.
        limit: usize,
    },
    /// The text is not well-formed XML.
    #[error("line {line}: not well-formed XML: {problem}")]
    Syntax {
        /// Line in the text, counted from 1.
        line: usize,
        /// What the XML reader reports.
        problem: String,
    },
    /// The text is XML, but no RSpec v3 request.
    #[error("line {line}: <{element}>: not an RSpec v3 request: {problem}")]
    NotARequest {
        /// Line of the root element.
        line: usize,
        /// Name of the root element.
        element: String,
        /// What differs from an RSpec v3 request.
        problem: String,
    },
    /// An element or text is where the schema does not allow it.
    #[error("line {line}: {found} has no place in <{parent}>")]
    Unexpected {
        /// Line of what was found.
        line: usize,
        /// The element or text.
        found: String,
        /// The element around it.
        parent: String,
    },
    /// An attribute is missing, unknown or malformed.
    #[error("line {line}: <{element}>: attribute `{attribute}` {problem}")]
    Attribute {
        /// Line of the element.
        line: usize,
        /// Name of the element.
        element: String,
        /// Name of the attribute.
        attribute: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Two elements that must differ share an id or an address.
    #[error("line {line}: <{element}>: `{value}` is already taken by line {first}")]
    Duplicate {
        /// Line of the later element.
        line: usize,
        /// Name of the element.
        element: String,
        /// The id or address.
        value: String,
        /// Line of the earlier element.
        first: usize,
    },
    /// A link names an interface that no node has.
    #[error("line {line}: <{element}>: there is no interface `{client_id}`")]
    Dangling {
        /// Line of the reference.
        line: usize,
        /// Name of the element.
        element: String,
        /// The id that no interface has.
        client_id: String,
    },
    /// A link cannot exist as it is written.
    #[error("line {line}: <link>: `{client_id}` {problem}")]
    Link {
        /// Line of the link.
        line: usize,
        /// Id of the link.
        client_id: String,
        /// Why the link cannot exist.
        problem: String,
    },
    /// The request is valid, but does not describe a slice that this project can run on.
    #[error("the slice cannot serve: {0}")]
    Role(String),
}
