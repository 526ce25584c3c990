//! The model repository: `<root>/<model>/<version>/{model.toml, weights.safetensors, labels.txt}`.

mod manifest;

pub use manifest::{Architecture, Filter, Input, Manifest, ManifestError, Padding, Resize};
