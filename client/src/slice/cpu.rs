//! CPU shares by control group, which make one node exactly as fast as another.
//!
//! A quota, not a weight: a weight lets one worker use a whole idle machine, and then two workers
//! are not twice as fast. Both versions of the kernel's interface are supported; if neither has a
//! `cpu` controller, the slice still works and reports that shares are not applied.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::layout;

/// Where the control groups of the kernel are.
const ROOT: &str = "/sys/fs/cgroup";
/// Short, so that a worker that has used up its quota does not wait long for the next; the kernel's
/// default of 100 ms would show up in every tail latency. The kernel checks at timer ticks,
/// commonly 4 ms apart, whether a quota is used up, so a shorter period would gain nothing.
const PERIOD_MICROS: f64 = 10_000.0;
/// The kernel accepts no smaller quota.
const MIN_QUOTA_MICROS: f64 = 1000.0;
const MAX_PERIOD_MICROS: f64 = 1_000_000.0;

/// The interface that this kernel offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// `cpu.cfs_quota_us` below this folder.
    V1(PathBuf),
    /// `cpu.max` below this folder.
    V2(PathBuf),
}

/// Parses a number of CPUs for clap.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(cpus) if (0.001..=1024.0).contains(&cpus) => Ok(cpus),
        _ => Err("a number of CPUs such as 0.25, from 0.001 to 1024".to_owned()),
    }
}

/// The share of each of `workers`: an equal part of a quarter of the machine, and at most one core,
/// so that neither the balancer nor the client nor the memory they all share is ever the limit.
pub(crate) fn fair_share(cores: usize, workers: usize) -> f64 {
    (cores as f64 / 4.0 / workers.max(1) as f64).clamp(0.001, 1.0)
}

impl Hierarchy {
    /// The hierarchy that is mounted here, if it can limit CPU.
    pub(crate) fn detect() -> Option<Self> {
        Self::below(Path::new(ROOT))
    }

    fn below(root: &Path) -> Option<Self> {
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        if controllers.split_whitespace().any(|name| name == "cpu") {
            return Some(Self::V2(root.to_owned()));
        }
        ["cpu", "cpu,cpuacct"]
            .iter()
            .map(|name| root.join(name))
            .find(|folder| folder.join("cgroup.procs").exists())
            .map(Self::V1)
    }

    fn folder(&self) -> &Path {
        match self {
            Self::V1(folder) | Self::V2(folder) => folder,
        }
    }

    fn slice(&self, slice: &str) -> PathBuf {
        self.folder().join(layout::group(slice))
    }

    /// Creates the group of a node, limited to `cpus` if given.
    pub(crate) fn create(&self, slice: &str, node: &str, cpus: Option<f64>) -> Result<()> {
        let (parent, group) = (self.slice(slice), self.slice(slice).join(node));
        fs::create_dir_all(&group).with_context(|| format!("cgroup {}", group.display()))?;
        if let Self::V2(root) = self {
            // Controllers are handed down one level at a time.
            write(&root.join("cgroup.subtree_control"), "+cpu")?;
            write(&parent.join("cgroup.subtree_control"), "+cpu")?;
        }
        let Some((quota, period)) = cpus.map(quota) else { return Ok(()) };
        match self {
            Self::V1(_) => {
                write(&group.join("cpu.cfs_period_us"), &period.to_string())?;
                write(&group.join("cpu.cfs_quota_us"), &quota.to_string())
            }
            Self::V2(_) => write(&group.join("cpu.max"), &format!("{quota} {period}")),
        }
    }

    /// The file to which a process of `node` writes its id.
    pub(crate) fn members(&self, slice: &str, node: &str) -> PathBuf {
        self.slice(slice).join(node).join("cgroup.procs")
    }

    /// The processes in any group of the slice.
    pub(crate) fn processes(&self, slice: &str) -> Vec<u32> {
        let groups = self.groups(slice);
        let lists =
            groups.iter().filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok());
        lists
            .flat_map(|list| list.lines().filter_map(|id| id.parse().ok()).collect::<Vec<_>>())
            .collect()
    }

    /// Whether the slice has any groups.
    pub(crate) fn holds(&self, slice: &str) -> bool {
        self.slice(slice).exists()
    }

    /// Removes the groups of a slice. Groups outlive their killed members for a moment.
    pub(crate) async fn remove(&self, slice: &str) -> Result<()> {
        const TRIES: u32 = 200;
        let groups = self.groups(slice);
        for group in groups.iter().chain([&self.slice(slice)]) {
            let mut tries = 0;
            while let Err(error) = fs::remove_dir(group) {
                tries += 1;
                if error.kind() == std::io::ErrorKind::NotFound {
                    break;
                }
                if tries == TRIES {
                    return Err(error).with_context(|| format!("removing {}", group.display()));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }

    fn groups(&self, slice: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.slice(slice)).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("writing {text} to {}", file.display()))
}

/// Microseconds of CPU per period, and the period in microseconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`share` bounds cpus to 0.001..=1024"
)]
fn quota(cpus: f64) -> (u64, u64) {
    let period = (MIN_QUOTA_MICROS / cpus).clamp(PERIOD_MICROS, MAX_PERIOD_MICROS);
    ((cpus * period).round() as u64, period.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_keep_their_ratio_and_the_kernels_minimum() {
        assert_eq!(quota(0.25), (2500, 10_000));
        assert_eq!(quota(2.0), (20_000, 10_000));
        assert_eq!(quota(0.01), (1000, 100_000));
    }

    #[test]
    fn four_workers_take_a_quarter_of_two_cores() {
        assert!((fair_share(2, 4) - 0.125).abs() < 1e-12);
        assert!((fair_share(64, 4) - 1.0).abs() < 1e-12);
        assert!((fair_share(8, 1) - 1.0).abs() < 1e-12);
    }

    #[tokio::test]
    async fn the_second_generation_gets_one_file_with_both_numbers() {
        let root = tempfile::tempdir().expect("folder");
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io\n").expect("written");
        let hierarchy = Hierarchy::below(root.path()).expect("found");
        assert_eq!(hierarchy, Hierarchy::V2(root.path().to_owned()));
        hierarchy.create("s", "server1", Some(0.5)).expect("made");
        let max = fs::read_to_string(root.path().join("fleet.s/server1/cpu.max")).expect("there");
        assert_eq!(max, "5000 10000");
    }

    #[test]
    fn a_kernel_without_the_controller_is_recognised() {
        let root = tempfile::tempdir().expect("folder");
        assert_eq!(Hierarchy::below(root.path()), None);
        fs::create_dir(root.path().join("cpu")).expect("made");
        fs::write(root.path().join("cpu/cgroup.procs"), "").expect("written");
        let expected = Hierarchy::V1(root.path().join("cpu"));
        assert_eq!(Hierarchy::below(root.path()), Some(expected));
    }
}
