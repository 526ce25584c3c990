//! The model repository: `<root>/<model>/<version>/{model.toml, weights.safetensors, labels.txt}`,
//! with an optional `<root>/<model>/serving.toml` that says which versions serve.
//!
//! Reads versions and installs new ones; [`crate::serving`] decides what is loaded and served.

pub(crate) mod file;
mod install;
mod manifest;
mod scan;
mod settings;
mod table;
mod version;

pub(crate) use install::{Name, Named, install, newest};
pub use manifest::{
    Architecture, Features, Filter, Input, Manifest, ManifestError, Padding, Resize,
};
pub(crate) use scan::version_number;
pub use scan::{Found, FoundFile, FoundVersion, Survey, scan, survey};
pub use settings::{ModelSettings, VersionPolicy};
pub(crate) use table::MAX_SCALE;
pub use table::{Cell, Column, Encoding, Table, Task};
pub use version::Version;
