//! How much memory the kernel allows this process: the limit of its control group, which is how
//! containers are limited. A process that exceeds it is killed without notice.

use std::fs;
use std::path::Path;

/// Values from here on mean "no limit" in version 1 of control groups.
const NO_LIMIT: u64 = 1 << 60;

/// The smallest limit, in bytes, of the control groups of this process; `None` if there is none.
pub(crate) fn memory_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    smallest(&groups, Path::new("/sys/fs/cgroup"))
}

/// The smallest limit of `groups`, formatted as in `/proc/self/cgroup` and mounted at `mounted`.
fn smallest(groups: &str, mounted: &Path) -> Option<u64> {
    groups.lines().filter_map(|line| group_limit(line, mounted)).min()
}

/// The smallest limit of one group, `NUMBER:CONTROLLERS:/PATH`, and of its parents.
fn group_limit(line: &str, mounted: &Path) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let (top, file) = if controllers.is_empty() {
        (mounted.to_owned(), "memory.max")
    } else if controllers.split(',').any(|controller| controller == "memory") {
        (mounted.join("memory"), "memory.limit_in_bytes")
    } else {
        return None;
    };
    // In a container the path may be that of the host. Then only the top exists, which is the
    // container's own group.
    let inner = top.join(path.trim_start_matches('/'));
    let around = inner.ancestors().take_while(|folder| folder.starts_with(&top));
    around.filter_map(|folder| limit(&folder.join(file))).min()
}

fn limit(file: &Path) -> Option<u64> {
    let bytes = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    (bytes < NO_LIMIT).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::smallest;

    fn write(root: &Path, file: &str, content: &str) {
        let file = root.join(file);
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        fs::write(file, content).expect("written");
    }

    #[test]
    fn the_smallest_limit_of_a_group_and_those_around_it_counts() {
        let root = tempfile::tempdir().expect("made");
        write(root.path(), "a.slice/memory.max", "800\n");
        write(root.path(), "a.slice/b/memory.max", "max\n");
        write(root.path(), "c/memory.max", "70\n");
        assert_eq!(smallest("0::/a.slice/b\n", root.path()), Some(800));
        assert_eq!(smallest("0::/c\n", root.path()), Some(70));
        assert_eq!(smallest("0::/\n", root.path()), None);
    }

    #[test]
    fn the_first_version_of_groups_has_a_folder_for_memory() {
        let root = tempfile::tempdir().expect("made");
        let groups = "9:cpu,cpuacct:/x\n3:memory:/docker/1234\n1:name=systemd:/docker/1234\n";
        assert_eq!(smallest(groups, root.path()), None);
        // As seen by a container without its own cgroup namespace.
        write(root.path(), "memory/memory.limit_in_bytes", "67108864\n");
        write(root.path(), "cpu,cpuacct/memory.limit_in_bytes", "1\n");
        assert_eq!(smallest(groups, root.path()), Some(64 << 20));
        write(root.path(), "memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(smallest(groups, root.path()), None);
    }

    #[test]
    fn what_is_no_list_of_groups_has_no_limit() {
        let root = tempfile::tempdir().expect("made");
        for groups in ["", "0", "0:", "0::", "memory", "3:memory:/../../.."] {
            assert_eq!(smallest(groups, root.path()), None, "{groups}");
        }
    }
}
