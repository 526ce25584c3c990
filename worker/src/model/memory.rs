//! How much memory a version needs to load and to run, computed before any of it is allocated: a
//! failed allocation ends the process, and with it every model being served.

use std::fs;
use std::num::NonZeroUsize;

use crate::Error;
use crate::repository::{Architecture, Version};

/// Bytes that the weights and the largest batch of a model may take by default.
pub const MAX_MEMORY: u64 = 1 << 30;

const FLOAT: u64 = size_of::<f32>() as u64;
/// Bytes that the photo network keeps per pixel of the input, in each thread: two planes of the
/// early blocks, eight images' planes of the late ones, and both again in the numbers of products.
const PER_PIXEL: u64 = 80;
/// Copies of the weights in memory besides their file while a network is built: one as read, one as
/// computed with.
const COPIES: u64 = 2;
/// Bytes of the smallest number that a weights file contains.
const SMALLEST: u64 = 2;
/// What a linear layer's row is worth beside its features; also the digit network's planes.
const PER_THREAD: u64 = 1 << 20;

/// Refuses a version whose weights and largest batch would take more than `limit` bytes on this
/// many threads.
pub(crate) fn check_memory(
    version: &Version,
    threads: NonZeroUsize,
    limit: u64,
) -> Result<(), Error> {
    // A file without readable metadata is not read either; loading reports why.
    let file = fs::metadata(version.weights()).map_or(0, |file| file.len());
    let weights = of_weights(version, file);
    if weights > limit {
        return Err(Error::Invalid(format!(
            "its weights, a file of {file} bytes, need {weights} bytes to load, more than \
             --max-model-memory ({limit})"
        )));
    }
    let needed = weights.saturating_add(of_batch(version, threads));
    if needed <= limit {
        return Ok(());
    }
    let rows = version.manifest.max_batch_size;
    let row = version.row_shape();
    Err(Error::Invalid(format!(
        "its weights and {rows} rows of shape {row:?} at a time need {needed} bytes, more than \
         --max-model-memory ({limit}): lower max_batch_size or the size of the input"
    )))
}

/// Bytes of a weights file and of the network built from it.
fn of_weights(version: &Version, file: u64) -> u64 {
    let numbers = match version.manifest.architecture {
        Architecture::Linear => {
            let width = version.row_shape().iter().map(|size| count(*size)).product::<u64>();
            width.saturating_add(1).saturating_mul(count(version.output_width()))
        }
        Architecture::MobilenetV2 | Architecture::MnistCnn => file / SMALLEST,
    };
    file.saturating_add(numbers.saturating_mul(COPIES * FLOAT))
}

/// Bytes of the inputs and outputs of the largest batch, and of what is kept between layers.
fn of_batch(version: &Version, threads: NonZeroUsize) -> u64 {
    let values = count(version.row_shape().iter().product());
    let rows = count(version.manifest.max_batch_size.get());
    // Outputs exist in the network's result, in the batch's and in the answers.
    let row = values.saturating_add(count(version.output_width()).saturating_mul(3));
    let batch = row.saturating_mul(FLOAT).saturating_mul(rows);
    let each = match (version.manifest.architecture, &version.manifest.input) {
        (Architecture::MobilenetV2, Some(input)) => {
            count(input.width * input.height).saturating_mul(PER_PIXEL)
        }
        _ => PER_THREAD,
    };
    batch.saturating_add(each.saturating_mul(count(threads.get())))
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::repository::Manifest;

    fn photos(side: usize, rows: usize) -> Version {
        let text = format!(
            "architecture = 'mobilenet_v2'
            max_batch_size = {rows}
            [input]
            width = {side}
            height = {side}
            resize = {{ mode = 'squash', filter = 'bilinear' }}
            mean = [0.5, 0.5, 0.5]
            std = [0.5, 0.5, 0.5]"
        );
        let manifest = Manifest::parse(&text).unwrap();
        Version { folder: PathBuf::new(), manifest, labels: vec!["thing".to_owned(); 1000] }
    }

    #[test]
    fn the_published_network_fits_in_every_batch_and_a_huge_one_does_not() {
        let threads = NonZeroUsize::new(16).unwrap();
        for rows in [1, 16, 1024] {
            check_memory(&photos(224, rows), threads, MAX_MEMORY).unwrap();
        }
        let one = NonZeroUsize::MIN;
        check_memory(&photos(2048, 1), one, MAX_MEMORY).unwrap();
        let error = check_memory(&photos(2048, 1024), one, MAX_MEMORY).unwrap_err().to_string();
        assert!(error.contains("[3, 2048, 2048]") && error.contains("max_batch_size"), "{error}");
        check_memory(&photos(2048, 1024), one, 1 << 36).unwrap();
    }

    #[test]
    fn weights_that_need_too_much_memory_are_refused_by_the_length_of_their_file() {
        let folder = tempfile::tempdir().unwrap();
        let values: Vec<String> = (0..65_536).map(|value| format!("'{value}'")).collect();
        let text = format!(
            "architecture = 'linear'
            max_batch_size = 1
            [table]
            label = 'kind'
            task = 'classification'
            columns = [{{ name = 'word', type = 'text', values = [{}] }}]",
            values.join(", ")
        );
        let manifest = Manifest::parse(&text).unwrap();
        let folder = folder.path().to_owned();
        let mut version = Version { folder, manifest, labels: vec!["a".to_owned(); 8000] };
        let weights = fs::File::create(version.weights()).unwrap();
        weights.set_len(2 * 65_536 * 8000).unwrap();
        let error = check_memory(&version, NonZeroUsize::MIN, MAX_MEMORY).unwrap_err().to_string();
        assert!(error.contains("a file of 1048576000 bytes"), "{error}");
        version.labels.truncate(1000);
        weights.set_len(2 * 65_536 * 1000).unwrap();
        check_memory(&version, NonZeroUsize::MIN, MAX_MEMORY).unwrap();
        let photos = Version { folder: version.folder, ..photos(224, 1) };
        check_memory(&photos, NonZeroUsize::MIN, MAX_MEMORY).unwrap();
        weights.set_len(300 << 20).unwrap();
        let error = check_memory(&photos, NonZeroUsize::MIN, MAX_MEMORY).unwrap_err().to_string();
        assert!(error.contains("--max-model-memory (1073741824)"), "{error}");
    }
}
