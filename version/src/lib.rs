//! The `--version` text, put together when a program is built: version, commit and cargo features.
//!
//! A build script calls [`emit`], and the program reads `env!("IMAGEFLEET_VERSION")`. The commit
//! comes from `IMAGEFLEET_COMMIT`, if the sources are built without their repository (containers,
//! archives), otherwise from git. Development builds name no commit: it would be wrong after the
//! next edit, and tracking it would rebuild the program at each commit.
#![forbid(unsafe_code)]

use std::env;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// Hexadecimal digits of a commit that are shown.
const DIGITS: usize = 12;

/// Tells cargo the version, and when to run the build script again. For build scripts only.
pub fn emit() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "cargo::rerun-if-env-changed=IMAGEFLEET_COMMIT")?;
    let is_release = text("PROFILE").is_some_and(|profile| profile == "release");
    let commit = text("IMAGEFLEET_COMMIT").filter(|commit| !commit.is_empty());
    let commit = match commit {
        None if is_release => {
            // These files record `HEAD` and its target; another commit changes one of the two.
            for name in ["HEAD", "logs/HEAD"] {
                if let Some(path) = git(&["rev-parse", "--git-path", name])
                    && Path::new(&path).exists()
                {
                    writeln!(out, "cargo::rerun-if-changed={path}")?;
                }
            }
            git(&["rev-parse", "HEAD"])
        }
        commit => commit,
    };
    let features = features(env::vars_os().filter_map(|(name, _)| name.into_string().ok()));
    let version = text("CARGO_PKG_VERSION").unwrap_or_default();
    let told = told(&version, commit.as_deref(), &features);
    writeln!(out, "cargo::rustc-env=IMAGEFLEET_VERSION={told}")
}

fn text(name: &str) -> Option<String> {
    env::var_os(name)?.into_string().ok()
}

/// The output of git; `None` without git or a repository.
fn git(words: &[&str]) -> Option<String> {
    let done = Command::new("git").args(words).output().ok()?;
    let text = String::from_utf8(done.stdout).ok()?;
    (done.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// The enabled features, which cargo passes to a build script in the names of variables.
fn features(variables: impl Iterator<Item = String>) -> Vec<String> {
    let named = variables.filter_map(|name| {
        let feature = name.strip_prefix("CARGO_FEATURE_")?.to_lowercase().replace('_', "-");
        (feature != "default").then_some(feature)
    });
    let mut features: Vec<String> = named.collect();
    features.sort();
    features
}

fn told(version: &str, commit: Option<&str>, features: &[String]) -> String {
    let commit = commit.map(|commit| {
        let digits: String = commit.chars().take(DIGITS).collect();
        format!("commit {digits}")
    });
    let features = (!features.is_empty()).then(|| format!("features {}", features.join(" ")));
    let details: Vec<String> = commit.into_iter().chain(features).collect();
    if details.is_empty() {
        format!("{version} (development build)")
    } else {
        format!("{version} ({})", details.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::{features, told};

    #[test]
    fn a_version_has_its_commit_and_features() {
        let commit = Some("0123456789abcdef0123456789abcdef01234567");
        let cuda = ["cuda".to_owned()];
        for (commit, features, expected) in [
            (commit, &cuda[..], "0.2.0 (commit 0123456789ab, features cuda)"),
            (commit, &[], "0.2.0 (commit 0123456789ab)"),
            (None, &cuda, "0.2.0 (features cuda)"),
            (None, &[], "0.2.0 (development build)"),
        ] {
            assert_eq!(told("0.2.0", commit, features), expected);
        }
    }

    #[test]
    fn features_are_read_from_the_variables_of_a_build_script() {
        let variables = ["CARGO_FEATURE_FAST_MATH", "CARGO_FEATURE_DEFAULT", "CARGO_FEATURE_CUDA"];
        let variables = variables.into_iter().chain(["PATH"]).map(str::to_owned);
        assert_eq!(features(variables), ["cuda", "fast-math"]);
    }
}
