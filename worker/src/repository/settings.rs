//! `<root>/<model>/serving.toml`: which versions of a model serve and what they are called.
//!
//! The file is optional; without it the newest version serves.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;

use serde::Deserialize;

use super::ManifestError;

/// How the versions of one model are served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// Which versions serve: `{ latest = 2 }`, `"all"` or `{ specific = [1, 3] }`; only the newest
    /// one if this is left out.
    #[serde(default)]
    pub version_policy: VersionPolicy,
    /// Names of versions, as `stable = 2`.
    #[serde(default)]
    pub labels: BTreeMap<String, u64>,
}

/// Which of the versions on disk serve.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionPolicy {
    /// This many of the newest versions.
    Latest(NonZeroUsize),
    /// Every version in the folder.
    All,
    /// The versions with these numbers.
    Specific(BTreeSet<u64>),
}

/// Most labels, and most versions that a policy names.
const MAX_NAMES: usize = 1000;
/// Bytes of a name.
const MAX_NAME: usize = 255;

impl ModelSettings {
    /// Reads and checks the text of a `serving.toml`.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let settings: Self = toml::from_str(text)?;
        let invalid = |key, rule| Err(ManifestError::Invalid { key, rule });
        if settings.labels.len() > MAX_NAMES {
            return invalid("labels", "must be at most 1000");
        }
        if settings.labels.keys().any(|label| label.is_empty() || label.len() > MAX_NAME) {
            return invalid("labels", "must be names of 1 to 255 bytes");
        }
        match &settings.version_policy {
            VersionPolicy::Specific(versions) if versions.len() > MAX_NAMES => {
                invalid("version_policy", "must name at most 1000 versions")
            }
            VersionPolicy::Specific(_) | VersionPolicy::Latest(_) | VersionPolicy::All => {
                Ok(settings)
            }
        }
    }
}

impl Default for VersionPolicy {
    fn default() -> Self {
        Self::Latest(NonZeroUsize::MIN)
    }
}

impl VersionPolicy {
    /// The versions to serve out of the usable ones, newest first.
    pub fn select(&self, usable: &BTreeSet<u64>) -> Vec<u64> {
        let newest_first = usable.iter().rev().copied();
        match self {
            Self::Latest(count) => newest_first.take(count.get()).collect(),
            Self::All => newest_first.collect(),
            Self::Specific(wanted) => newest_first.filter(|v| wanted.contains(v)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{ModelSettings, VersionPolicy};

    fn settings(text: &str) -> ModelSettings {
        ModelSettings::parse(text).unwrap()
    }

    #[test]
    fn without_a_file_the_newest_version_serves() {
        let usable = BTreeSet::from([1, 2, 10]);
        assert_eq!(ModelSettings::default().version_policy.select(&usable), [10]);
    }

    #[test]
    fn the_three_policies_read_and_select() {
        let usable = BTreeSet::from([1, 2, 10]);
        let select = |text: &str| settings(text).version_policy.select(&usable);
        assert_eq!(select("version_policy = { latest = 2 }"), [10, 2]);
        assert_eq!(select("version_policy = 'all'"), [10, 2, 1]);
        assert_eq!(select("version_policy = { specific = [1, 3] }"), [1]);
    }

    #[test]
    fn labels_name_versions_and_unknown_keys_are_refused() {
        let labels = settings("[labels]\nstable = 1\ncanary = 2").labels;
        assert_eq!(labels["canary"], 2);
        assert!(ModelSettings::parse("policy = 'all'").is_err());
        assert!(ModelSettings::parse("version_policy = { latest = 0 }").is_err());
        assert_eq!(settings("").version_policy, VersionPolicy::default());
    }

    #[test]
    fn what_settings_may_say_is_bounded() {
        let refused = |text: &str| ModelSettings::parse(text).unwrap_err().to_string();
        let labels: Vec<String> = (0..1001).map(|at| format!("l{at} = 1\n")).collect();
        let labels = labels.concat();
        assert_eq!(refused(&format!("[labels]\n{labels}")), "labels: must be at most 1000");
        assert!(refused(&format!("[labels]\n{} = 1", "x".repeat(256))).starts_with("labels: "));
        let numbers: Vec<String> = (0..1001).map(|number| number.to_string()).collect();
        let text = format!("version_policy = {{ specific = [{}] }}", numbers.join(","));
        assert!(refused(&text).starts_with("version_policy: "));
    }
}
