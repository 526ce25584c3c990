//! The model repository: `<root>/<model>/<version>/{model.toml, weights.safetensors, labels.txt}`,
//! with an optional `<root>/<model>/serving.toml` that says which versions serve.
//!
//! Only reads files; what is loaded and served is the business of [`crate::serving`].

mod manifest;
mod scan;
mod settings;
mod table;
mod version;

pub use manifest::{
    Architecture, Features, Filter, Input, Manifest, ManifestError, Padding, Resize,
};
pub use scan::{Found, FoundFile, FoundVersion, scan};
pub use settings::{ModelSettings, VersionPolicy};
pub use table::{Cell, Column, Encoding, Table, Task};
pub use version::Version;
