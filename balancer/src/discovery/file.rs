//! Lists of endpoints in files: an `RSpec` request, or one worker a line.

use std::path::Path;

use super::List;
use crate::config::{self, ConfigError, Source};

/// The workers of an `RSpec` request.
pub(super) fn rspec(path: &Path) -> Result<List, ConfigError> {
    let wrong = |error: rspec::RspecError| ConfigError::File {
        path: path.to_owned(),
        message: error.to_string(),
    };
    let request = rspec::Rspec::parse(&config::read(path)?).map_err(wrong)?;
    let workers = request.workers(rspec::WORKER_PORT).map_err(wrong)?;
    Ok(workers.into_iter().map(|worker| (worker.name, worker.address)).collect())
}

/// One worker a line, as `--worker` takes it; `#` begins a comment.
pub(super) fn list(path: &Path) -> Result<List, ConfigError> {
    let text = config::read(path)?;
    let mut list = List::new();
    for (number, line) in text.lines().enumerate() {
        let worker = line.split('#').next().unwrap_or_default().trim();
        if worker.is_empty() {
            continue;
        }
        let wrong = |message: String| ConfigError::File {
            path: path.to_owned(),
            message: format!("line {}: {message}", number + 1),
        };
        match config::parse_worker(worker).map_err(|error| wrong(error.to_string()))? {
            Source::Fixed { name, address } => list.push((name, address)),
            Source::Dns { .. } | Source::Services(_) | Source::Rspec(_) | Source::File(_) => {
                return Err(wrong("a file holds plain addresses; use --worker dns:…".to_owned()));
            }
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_file_holds_one_worker_a_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("workers");
        std::fs::write(&path, "# all\n127.0.0.1:1\n\n b=127.0.0.1:2 # second\n").expect("written");
        let list = super::list(&path).expect("valid");
        let names: Vec<&str> = list.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["127.0.0.1:1", "b"]);
        std::fs::write(&path, "127.0.0.1:1\nnonsense\n").expect("written");
        let error = super::list(&path).expect_err("refused").to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}
