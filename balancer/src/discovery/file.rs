//! Lists of endpoints in files: an `RSpec` request, or one worker per line.
//!
//! A file is read on a thread that may block on its disk, one read at a time, and nothing waits for
//! it longer than [`LIMIT`]. Only regular files are read: no FIFO, folder or device.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::belief::{Belief, Verdict};
use super::complaint::Complaint;
use super::{Follower, Host, Location, Named};
use crate::config::{self, ConfigError, Source};
use crate::files;

/// Time limit for reading the file.
const LIMIT: Duration = Duration::from_secs(5);

type Part = Result<Vec<Named>, ConfigError>;

/// The workers in a file at startup.
pub(super) async fn first(source: &Source) -> Part {
    let part = Reading::default().get(source).await?;
    if part.is_empty() {
        tracing::warn!(%source, "the file names no worker");
    }
    Ok(part)
}

/// Looks at a file again and again; `known` is its content at startup.
pub(super) async fn follow(source: Source, known: Vec<Named>, mut follower: Follower) {
    let (mut belief, mut reading) = (Belief::new(known), Reading::default());
    let mut complaint = Complaint::default();
    loop {
        if follower.next().await {
            belief.order();
        }
        let part = match reading.get(&source).await {
            Ok(part) => part,
            Err(error) => {
                belief.unreadable();
                let reason = error.to_string();
                complaint.say(&reason, || {
                    tracing::warn!(%source, reason, "workers not read, keeping the list");
                });
                continue;
            }
        };
        match belief.look(part) {
            Verdict::Wait => {}
            Verdict::Empty => complaint.say("empty", || {
                tracing::warn!(
                    %source,
                    "the file names no worker any more, keeping the list until SIGHUP"
                );
            }),
            Verdict::Same => {
                if complaint.is_over() {
                    tracing::info!(%source, "workers reloaded");
                }
            }
            Verdict::New(part) => {
                let _was_wrong = complaint.is_over();
                tracing::info!(%source, workers = part.len(), "workers read");
                follower.publish(part).await;
            }
        }
    }
}

/// One read at a time: a disk that hangs blocks one thread, not another one every second.
#[derive(Debug, Default)]
struct Reading {
    running: Option<JoinHandle<Part>>,
}

impl Reading {
    async fn get(&mut self, source: &Source) -> Part {
        let running = self.running.get_or_insert_with(|| {
            let source = source.clone();
            tokio::task::spawn_blocking(move || read(&source))
        });
        let Ok(ended) = tokio::time::timeout(LIMIT, running).await else {
            let text = format!("{source} cannot be read within {}s", LIMIT.as_secs());
            return Err(ConfigError::Invalid(text));
        };
        self.running = None;
        ended.unwrap_or_else(|error| Err(ConfigError::Invalid(error.to_string())))
    }
}

fn read(source: &Source) -> Part {
    match source {
        Source::Rspec(path) => rspec(path),
        Source::File(path) => list(path),
        Source::Fixed { .. } | Source::Host { .. } | Source::Dns { .. } | Source::Services(_) => {
            Ok(Vec::new())
        }
    }
}

fn text(path: &Path) -> Result<String, ConfigError> {
    let wrong =
        |_| ConfigError::File { path: path.to_owned(), message: "it is no text".to_owned() };
    String::from_utf8(files::read_regular(path)?).map_err(wrong)
}

/// The workers of an `RSpec` request.
fn rspec(path: &Path) -> Part {
    let wrong = |error: rspec::RspecError| ConfigError::File {
        path: path.to_owned(),
        message: error.to_string(),
    };
    let request = rspec::Rspec::parse(&text(path)?).map_err(wrong)?;
    let workers = request.workers(rspec::WORKER_PORT).map_err(wrong)?;
    let named = |worker: rspec::Worker| Named {
        name: worker.name,
        place: Location::Address(worker.address),
    };
    Ok(workers.into_iter().map(named).collect())
}

/// One worker per line, in the syntax of `--worker`; `#` begins a comment.
fn list(path: &Path) -> Part {
    let text = text(path)?;
    let mut list: Vec<Named> = Vec::new();
    let mut lines: HashMap<String, usize> = HashMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let worker = line.split('#').next().unwrap_or_default().trim();
        if worker.is_empty() {
            continue;
        }
        let wrong = |message: String| ConfigError::File {
            path: path.to_owned(),
            message: format!("line {number}: {message}"),
        };
        let named = match config::parse_worker(worker).map_err(|error| wrong(error.to_string()))? {
            Source::Fixed { name, address } => Named { name, place: Location::Address(address) },
            Source::Host { name, host, port } => {
                Named { name, place: Location::Host(Host { name: host, port }) }
            }
            Source::Dns { .. } | Source::Services(_) | Source::Rspec(_) | Source::File(_) => {
                return Err(wrong("a file holds plain addresses; use --worker dns:…".to_owned()));
            }
        };
        if list.contains(&named) {
            continue;
        }
        if let Some(first) = lines.insert(named.name.clone(), number) {
            return Err(wrong(format!("line {first} names a worker {} too", named.name)));
        }
        list.push(named);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(part: &[Named]) -> Vec<&str> {
        part.iter().map(|named| named.name.as_str()).collect()
    }

    #[test]
    fn a_file_holds_one_worker_a_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("workers");
        let lines = "# all\n127.0.0.1:1\n\n b=127.0.0.1:2 # second\nc=pool.test:3\n127.0.0.1:1\n";
        std::fs::write(&path, lines).expect("written");
        let part = list(&path).expect("valid");
        assert_eq!(names(&part), ["127.0.0.1:1", "b", "c"], "one line twice is one worker");
        std::fs::write(&path, "127.0.0.1:1\nnonsense\n").expect("written");
        let error = list(&path).expect_err("refused").to_string();
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn two_workers_of_one_name_are_refused_with_their_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("workers");
        std::fs::write(&path, "a=127.0.0.1:1\n\na=127.0.0.1:2\n").expect("written");
        let error = list(&path).expect_err("refused").to_string();
        assert!(error.contains("line 3: line 1 names a worker a too"), "{error}");
    }
}
