//! The model repository: `<root>/<model>/<version>/{model.toml, weights.safetensors, labels.txt}`.

mod manifest;
mod table;

pub use manifest::{
    Architecture, Features, Filter, Input, Manifest, ManifestError, Padding, Resize,
};
pub use table::{Cell, Column, Encoding, Table, Task};
