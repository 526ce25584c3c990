//! Tensors of a file that `torch.save` has written: a zip archive with a pickle that describes them and
//! a file for the numbers of each.
//!
//! Memory is bounded by the file: entries are stored uncompressed, together they are no longer than
//! the file, and only tensors that the network has, in its shapes, are copied. Tensors may share
//! everything that describes them; it stays in the pickle, once, until one of them is requested.

mod pickle;

use std::collections::HashMap;
use std::io::{Cursor, Read};

use pickle::{Id, Object, Pickle};
use safetensors::tensor::{Dtype, TensorView};
use zip::{CompressionMethod, ZipArchive};

/// Bytes of the largest pickle that is read: that of a state dict has some tens of thousands.
const MAX_PICKLE: u64 = 16 << 20;
/// Most files in an archive: one per tensor, and a few more.
const MAX_FILES: usize = 100_000;
/// Most sides of a tensor: networks have four.
const MAX_SIDES: usize = 8;
/// Bytes of the longest file name in an archive: they are numbers.
const MAX_NAME: usize = 255;
/// Signature of each file's entry in the directory of an archive.
const ENTRY: &[u8] = b"PK\x01\x02";

/// A state dict whose tensors can be taken.
pub(super) struct StateDict<'a> {
    archive: ZipArchive<Cursor<&'a [u8]>>,
    /// Prefix of the names of the archive's files.
    folder: String,
    pickle: Pickle,
    /// The float tensors by name.
    tensors: HashMap<String, Id>,
    /// Bytes that may still be read.
    left: u64,
}

/// A pickle's description of a float tensor, none of it copied.
struct Described<'a> {
    dtype: Dtype,
    storage: &'a str,
    offset: usize,
    shape: &'a [Id],
    strides: &'a [Id],
}

/// Where the numbers of a tensor are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    dtype: Dtype,
    /// The file of the archive.
    storage: String,
    offset: usize,
    pub(super) shape: Vec<usize>,
    strides: Vec<usize>,
}

impl<'a> StateDict<'a> {
    /// Finds the tensors of a file, saved alone or under `state_dict`.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, String> {
        if bytes.windows(ENTRY.len()).filter(|window| *window == ENTRY).count() > MAX_FILES {
            return Err(format!("an archive of more than {MAX_FILES} files"));
        }
        let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| damaged(&error))?;
        let names = archive.file_names().filter_map(|name| Some(name.ok()?.into_owned()));
        let pickles: Vec<String> = names.filter(|name| name.ends_with("data.pkl")).collect();
        let [pickle] = pickles.as_slice() else {
            return Err(format!("{} files data.pkl in it, expected one", pickles.len()));
        };
        let folder = pickle.trim_end_matches("data.pkl").to_owned();
        let mut left = bytes.len() as u64;
        if let Ok(order) = entry(&mut archive, &format!("{folder}byteorder"), 16, &mut left)
            && order != b"little"
        {
            return Err("its numbers are not little-endian: save it on another machine".to_owned());
        }
        let pickle = entry(&mut archive, pickle, MAX_PICKLE, &mut left)?;
        let pickle = Pickle::read(&pickle)?;
        let tensors = tensors(&pickle)?;
        Ok(Self { archive, folder, pickle, tensors, left })
    }

    /// Whether there is a tensor with that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The tensor with that name.
    pub(super) fn get(&self, name: &str) -> Option<Stored> {
        Described::of(&self.pickle, *self.tensors.get(name)?)?.stored(&self.pickle)
    }

    /// The names of all float tensors.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensors with these names, as a safetensors file.
    pub(super) fn serialise<'n>(
        mut self,
        names: impl Iterator<Item = &'n str>,
    ) -> Result<Vec<u8>, String> {
        let tensors = names.filter_map(|name| Some((name, self.get(name)?)));
        let mut tensors: Vec<(&str, Stored)> = tensors.collect();
        tensors.sort_by(|(_, a), (_, b)| a.storage.cmp(&b.storage));
        let mut copied = Vec::with_capacity(tensors.len());
        // Tensors may share a file; it is read once.
        let mut read = (String::new(), Vec::new());
        for (name, stored) in tensors {
            if read.0 != stored.storage {
                let file = format!("{}data/{}", self.folder, stored.storage);
                let bytes = entry(&mut self.archive, &file, u64::MAX - 1, &mut self.left)?;
                read = (stored.storage.clone(), bytes);
            }
            let bytes = stored.gather(&read.1).ok_or_else(|| {
                format!("tensor `{name}` has more elements than file {} holds", stored.storage)
            })?;
            copied.push((name, stored, bytes));
        }
        let views = copied.iter().map(|(name, stored, bytes)| {
            let view = TensorView::new(stored.dtype, stored.shape.clone(), bytes);
            view.map(|view| (*name, view)).map_err(|error| error.to_string())
        });
        let views = views.collect::<Result<Vec<_>, _>>()?;
        safetensors::serialize(views, None).map_err(|error| error.to_string())
    }
}

impl Stored {
    /// The elements in the order of their indices; `None` if they are not all there. The copy is
    /// bounded because no element of a network's tensors is repeated.
    fn gather(&self, storage: &[u8]) -> Option<Vec<u8>> {
        let Self { shape, strides, .. } = self;
        let size = self.dtype.bitsize() / 8;
        let count = shape.iter().try_fold(1usize, |count, side| count.checked_mul(*side))?;
        let length = count.checked_mul(size).filter(|length| *length <= storage.len())?;
        let mut bytes = Vec::with_capacity(length);
        let mut index = vec![0; shape.len()];
        for _ in 0..count {
            let steps =
                index.iter().zip(strides).try_fold(self.offset, |at, (index, stride)| {
                    at.checked_add(usize::checked_mul(*index, *stride)?)
                })?;
            let start = steps.checked_mul(size)?;
            bytes.extend_from_slice(storage.get(start..start.checked_add(size)?)?);
            for (index, side) in index.iter_mut().zip(shape).rev() {
                *index += 1;
                if *index < *side {
                    break;
                }
                *index = 0;
            }
        }
        Some(bytes)
    }
}

/// A file of the archive, which is stored uncompressed.
fn entry(
    archive: &mut ZipArchive<Cursor<&[u8]>>,
    name: &str,
    limit: u64,
    left: &mut u64,
) -> Result<Vec<u8>, String> {
    let mut file = archive.by_name(name).map_err(|error| format!("{name} in it: {error}"))?;
    if file.compression() != CompressionMethod::Stored {
        return Err(format!("{name} in it is packed; torch.save packs nothing"));
    }
    if file.size() > limit.min(*left) {
        return Err(format!("{name} in it is too large"));
    }
    *left -= file.size();
    let mut bytes = Vec::new();
    file.by_ref().take(limit).read_to_end(&mut bytes).map_err(|error| damaged(&error))?;
    Ok(bytes)
}

fn damaged(error: &dyn std::fmt::Display) -> String {
    format!("damaged: {error}")
}

/// The float tensors by name.
fn tensors(pickle: &Pickle) -> Result<HashMap<String, Id>, String> {
    let Object::Dict(root) = pickle.root() else {
        return Err("no state dict in it: save model.state_dict()".to_owned());
    };
    let inner = root.iter().find(|(name, _)| pickle.text(*name) == Some("state_dict"));
    let pairs = match inner.map(|(_, value)| pickle.get(*value)) {
        Some(Object::Dict(inner)) => inner,
        _ => root,
    };
    let mut tensors = HashMap::new();
    for (name, value) in pairs {
        let Some((name, found)) = pickle.text(*name).zip(Described::of(pickle, *value)) else {
            continue;
        };
        // Training on several GPUs puts this before every name.
        let plain = name.strip_prefix("module.").unwrap_or(name);
        let (sides, strides) = (found.shape.len(), found.strides.len());
        if sides > MAX_SIDES || sides != strides {
            return Err(format!("tensor `{plain}` has {sides} sides and {strides} strides"));
        }
        if found.storage.len() > MAX_NAME {
            return Err(format!("the name of the file of tensor `{plain}` is too long"));
        }
        if tensors.insert(plain.to_owned(), *value).is_some() {
            return Err(format!("tensor `{plain}` is in it twice"));
        }
    }
    Ok(tensors)
}

impl<'a> Described<'a> {
    /// The float tensor that an object describes, if it is one.
    fn of(pickle: &'a Pickle, value: Id) -> Option<Self> {
        let (mut callable, mut arguments) = call(pickle, value)?;
        // A parameter holds a tensor; so does a tensor of a derived class.
        if pickle.class(callable)? == ("torch._tensor", "_rebuild_from_type_v2") {
            let items = pickle.tuple(arguments)?;
            (callable, arguments) = (*items.first()?, *items.get(2)?);
        }
        if pickle.class(callable)? == ("torch._utils", "_rebuild_parameter") {
            (callable, arguments) = call(pickle, *pickle.tuple(arguments)?.first()?)?;
        }
        if pickle.class(callable)? != ("torch._utils", "_rebuild_tensor_v2") {
            return None;
        }
        let [storage, offset, shape, strides, ..] = pickle.tuple(arguments)? else { return None };
        let Object::Persistent(storage) = pickle.get(*storage) else { return None };
        let [_, class, file, ..] = pickle.tuple(*storage)? else { return None };
        let dtype = match pickle.class(*class)? {
            ("torch", "FloatStorage") => Dtype::F32,
            ("torch", "DoubleStorage") => Dtype::F64,
            ("torch", "HalfStorage") => Dtype::F16,
            ("torch", "BFloat16Storage") => Dtype::BF16,
            _ => return None,
        };
        let (shape, strides) = (pickle.tuple(*shape)?, pickle.tuple(*strides)?);
        let (storage, offset) = (pickle.text(*file)?, pickle.count(*offset)?);
        Some(Self { dtype, storage, offset, shape, strides })
    }

    /// An owned copy; `None` if a side or a stride is not a number.
    fn stored(&self, pickle: &Pickle) -> Option<Stored> {
        let counts =
            |ids: &[Id]| ids.iter().map(|id| pickle.count(*id)).collect::<Option<Vec<_>>>();
        Some(Stored {
            dtype: self.dtype,
            storage: self.storage.to_owned(),
            offset: self.offset,
            shape: counts(self.shape)?,
            strides: counts(self.strides)?,
        })
    }
}

fn call(pickle: &Pickle, value: Id) -> Option<(Id, Id)> {
    if let Object::Call { callable, arguments } = pickle.get(value) {
        Some((*callable, *arguments))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(shape: &[usize], strides: &[usize], offset: usize) -> Stored {
        let (shape, strides) = (shape.to_vec(), strides.to_vec());
        Stored { dtype: Dtype::F16, storage: "0".to_owned(), offset, shape, strides }
    }

    #[test]
    fn elements_are_gathered_in_the_order_of_their_indices() {
        let storage: Vec<u8> = (0..14).collect();
        let elements = |stored: Stored| {
            let bytes = stored.gather(&storage)?;
            Some(bytes.as_chunks::<2>().0.iter().map(|[low, _]| low / 2).collect::<Vec<_>>())
        };
        assert_eq!(elements(stored(&[2, 3], &[3, 1], 1)), Some(vec![1, 2, 3, 4, 5, 6]));
        assert_eq!(elements(stored(&[3, 2], &[1, 3], 0)), Some(vec![0, 3, 1, 4, 2, 5]));
        assert_eq!(elements(stored(&[], &[], 6)), Some(vec![6]));
        assert_eq!(elements(stored(&[0, 2], &[2, 1], 99)), Some(vec![]));
        assert_eq!(elements(stored(&[2, 3], &[3, 1], 2)), None);
        assert_eq!(elements(stored(&[2], &[usize::MAX], 0)), None);
        assert_eq!(elements(stored(&[1], &[1], usize::MAX)), None);
        assert_eq!(elements(stored(&[usize::MAX, 2], &[0, 0], 0)), None);
        assert_eq!(elements(stored(&[1 << 40], &[0], 0)), None);
    }
}
