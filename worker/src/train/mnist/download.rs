//! Fetches MNIST's four files from a public mirror.
//!
//! A file is accepted only if its unpacked contents have the published SHA-256, so a mirror,
//! a proxy or a cut connection cannot change what is learnt; how a mirror compressed it does
//! not matter.

use std::{fs, io::Read, path::Path};

use flate2::read::GzDecoder;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use crate::{
    Error,
    train::{directory, invalid},
};

/// A mirror of the original files.
pub(super) const MIRROR: &str = "https://ossci-datasets.s3.amazonaws.com/mnist";
/// The largest of the files has 10 MB.
const MAX_BYTES: u64 = 32 << 20;
const MAX_UNPACKED: u64 = 64 << 20;

/// Each file with the SHA-256 of its decompressed contents.
const FILES: [(&str, &str); 4] = [
    (
        "train-images-idx3-ubyte.gz",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    (
        "train-labels-idx1-ubyte.gz",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    (
        "t10k-images-idx3-ubyte.gz",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    (
        "t10k-labels-idx1-ubyte.gz",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
];

/// Fetches the files that are not in `dir` yet.
pub(super) fn fetch(mirror: &str, dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(Error::file(dir))?;
    for (name, sha256) in FILES {
        let path = dir.join(name);
        if path.exists() {
            continue;
        }
        let url = format!("{}/{name}", mirror.trim_end_matches('/'));
        let bytes = body(&url)?;
        let hash = contents_hash(&bytes).map_err(|e| invalid(&path, e))?;
        if !is_hex_of(sha256, &hash) {
            let reason = "the contents are not MNIST's (SHA-256 differs): try another --mirror";
            return Err(Error::Download { url, reason: reason.to_owned() });
        }
        directory::replace_file(&path, &bytes)?;
        tracing::info!(file = %path.display(), bytes = bytes.len(), "fetched");
    }
    Ok(())
}

fn body(url: &str) -> Result<Vec<u8>, Error> {
    let failed =
        |e: &dyn std::fmt::Display| Error::Download { url: url.to_owned(), reason: e.to_string() };
    let mut response = crate::pull::agent().get(url).call().map_err(|e| failed(&e))?;
    if !response.status().is_success() {
        return Err(failed(&response.status()));
    }
    let style = "{bytes}/{total_bytes} {bar:32} {eta} left";
    let style = ProgressStyle::with_template(style).expect("the template is valid");
    let bar = match response.body().content_length() {
        Some(length) => ProgressBar::new(length).with_style(style),
        None => ProgressBar::no_length(),
    };
    let reader = response.body_mut().with_config().limit(MAX_BYTES).reader();
    let mut bytes = Vec::new();
    bar.wrap_read(reader).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
    bar.finish_and_clear();
    Ok(bytes)
}

fn contents_hash(gzipped: &[u8]) -> std::io::Result<[u8; 32]> {
    let mut contents = Vec::new();
    GzDecoder::new(gzipped).take(MAX_UNPACKED).read_to_end(&mut contents)?;
    Ok(Sha256::digest(&contents).into())
}

fn is_hex_of(hex: &str, bytes: &[u8]) -> bool {
    let byte = |pair| u8::from_str_radix(pair, 16).ok();
    let pairs = (0..hex.len() / 2).map(|i| hex.get(2 * i..2 * i + 2).and_then(byte));
    pairs.eq(bytes.iter().copied().map(Some))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};

    use super::*;

    /// Answers every request with `body`, on a free port, until the process ends.
    fn mirror(body: Vec<u8>) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/mnist", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                lines.take_while(|line| !line.as_ref().unwrap().is_empty()).for_each(drop);
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all(head.as_bytes()).unwrap();
                stream.write_all(&body).unwrap();
            }
        });
        url
    }

    #[test]
    fn a_file_with_other_contents_is_refused_and_not_kept() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"not MNIST").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let error = fetch(&mirror(gz.finish().unwrap()), dir.path()).unwrap_err().to_string();
        assert!(error.contains("train-images") && error.contains("SHA-256"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_published_files_are_fetched_once() {
        let Some(packed) = testdata::large("mnist/t10k-labels-idx1-ubyte.gz") else { return };
        let labels = fs::read(packed).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (name, _) in FILES.iter().filter(|(name, _)| *name != "t10k-labels-idx1-ubyte.gz") {
            fs::write(dir.path().join(name), b"already there").unwrap();
        }
        fetch(&mirror(labels.clone()), dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join("t10k-labels-idx1-ubyte.gz")).unwrap(), labels);
    }
}
