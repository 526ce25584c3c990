//! The settings with which a service of a slice was started, so that one running with others is not
//! mistaken for the requested one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, Result};
use rspec::Role;
use serde::{Deserialize, Serialize};

use super::Which;
use super::layout::Node;
use super::record;

/// The settings that a service is started with.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Started {
    command: Vec<String>,
    /// The environment variables that it reads and that are set, by name.
    variables: BTreeMap<String, String>,
}

impl Started {
    /// The settings of the service of `node`, if this program started it now; `implied` are the
    /// words of the command that the user did not ask for.
    pub(super) fn now(node: &Node, command: &[String], implied: &[String]) -> Self {
        Self::of(node, command, implied, std::env::vars_os())
    }

    /// The file that records the settings of the service of a node.
    pub(super) fn file(which: &Which, node: &Node) -> PathBuf {
        record::folder(which).join(format!("{}.started", node.name))
    }

    /// The settings of the service of `node`, if started with these variables set.
    fn of(
        node: &Node,
        command: &[String],
        implied: &[String],
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Self {
        let prefix = match node.role {
            Some(Role::Balancer) => "BALANCER_",
            Some(Role::Worker(_) | Role::Client) | None => "WORKER_",
        };
        let text = |text: OsString| text.to_string_lossy().into_owned();
        let variables = variables.map(|(name, value)| (text(name), text(value)));
        // The flags of the command cover these.
        let is_read = |name: &str| {
            name.starts_with(prefix) && !["WORKER_MODELS", "WORKER_THREADS"].contains(&name)
        };
        let variables = variables.filter(|(name, _)| is_read(name)).collect();
        let is_asked = |word: &&String| !implied.contains(word);
        Self { command: command.iter().filter(is_asked).cloned().collect(), variables }
    }

    pub(super) fn save(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))
    }

    /// Whether the service recorded in `file` was started with another command, or without a
    /// variable as it is set now. A service without a record counts as the same.
    pub(super) fn differs(&self, file: &Path) -> Result<bool> {
        match fs::read_to_string(file) {
            Ok(text) => Ok(!serde_json::from_str::<Self>(&text).is_ok_and(|had| {
                let has =
                    |(name, value): (&String, &String)| had.variables.get(name) == Some(value);
                had.command == self.command && self.variables.iter().all(has)
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(role: Role) -> Node {
        Node { name: "n".to_owned(), role: Some(role), ports: Vec::new(), routes: Vec::new() }
    }

    fn started(role: Role, words: &[&str], variables: &[(&str, &str)]) -> Started {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let variables =
            variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Started::of(&node(role), &words, &["quick".to_owned()], variables)
    }

    #[test]
    fn a_service_that_was_started_with_other_settings_differs() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("n.started");
        let worker = Role::Worker(1);
        let first =
            || started(worker, &["worker", "serve"], &[("WORKER_LOG", "info"), ("HOME", "/")]);
        assert!(!first().differs(&file).expect("read"), "nothing is known of it");
        first().save(&file).expect("written");
        assert!(!first().differs(&file).expect("read"));
        let serve = ["worker", "serve"];
        for same in [
            started(worker, &serve, &[("TERM", "x"), ("WORKER_LOG", "info")]),
            started(worker, &serve, &[]),
            // A flag of the command covers it, and the balancer's settings are not the worker's.
            started(worker, &serve, &[("WORKER_THREADS", "2")]),
            started(worker, &serve, &[("BALANCER_POLICY", "p2c")]),
        ] {
            assert!(!same.differs(&file).expect("read"), "{same:?}");
        }
        for other in [
            started(worker, &["worker", "serve", "--threads", "2"], &[]),
            started(worker, &serve, &[("WORKER_LOG", "debug")]),
            started(worker, &serve, &[("WORKER_LOG", "info"), ("WORKER_ISA", "avx2")]),
        ] {
            assert!(other.differs(&file).expect("read"), "{other:?}");
        }
        started(Role::Balancer, &["balancer"], &[("BALANCER_THREADS", "2")])
            .save(&file)
            .expect("written");
        let words = ["quick", "balancer"];
        let balancer = |variables| started(Role::Balancer, &words, variables).differs(&file);
        assert!(!balancer(&[]).expect("read"), "nothing is asked for");
        assert!(balancer(&[("BALANCER_POLICY", "p2c")]).expect("read"));
    }
}
