//! Memory: what is free, with the limits of cgroups, and what this process has.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that the process may still use without driving others out: what the kernel
/// calls available, or less where a cgroup allows less. `None` if the system does
/// not say.
pub fn available_memory() -> Option<u64> {
    available_under(Path::new("/"))
}

/// Resident memory of the process.
pub fn rss() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The most resident memory that the process had at once.
pub fn peak_rss() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// [`available_memory`] with another root, for tests.
fn available_under(root: &Path) -> Option<u64> {
    let machine = fs::read_to_string(root.join("proc/meminfo")).ok();
    let machine = machine.and_then(|text| field(&text, "MemAvailable:"));
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let groups = groups.lines().filter_map(|line| group_headroom(root, line));
    machine.into_iter().chain(groups).min()
}

/// `Name:   123 kB` in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Where a version of cgroups keeps its figures.
struct Layout {
    mount: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// Page cache in `memory.stat` that gives way when memory is asked for.
    reclaimable: &'static str,
}

const V1: Layout = Layout {
    mount: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file ",
};
const V2: Layout = Layout {
    mount: "sys/fs/cgroup",
    limit: "memory.max",
    usage: "memory.current",
    reclaimable: "inactive_file ",
};

/// What a line of `/proc/self/cgroup`, `number:controllers:path`, leaves to use: the
/// least of the group and all groups above it.
fn group_headroom(root: &Path, line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let layout = match controllers {
        "" => V2,
        list if list.split(',').any(|name| name == "memory") => V1,
        _ => return None,
    };
    let mount = root.join(layout.mount);
    // In a container the path may be the host's, which is not mounted here; then the
    // groups that are mounted (at least the top) still count.
    let group: PathBuf = mount.join(path.trim_start_matches('/'));
    group
        .ancestors()
        .take_while(|folder| folder.starts_with(&mount))
        .filter_map(|folder| headroom(folder, &layout))
        .min()
}

/// `None` where there is no limit (the word `max`, or a number near 2⁶³).
fn headroom(folder: &Path, layout: &Layout) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        text.trim().parse().ok()
    };
    let limit = number(layout.limit).filter(|&limit| limit < 1 << 60)?;
    let used = number(layout.usage)?;
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let reclaimable = stat
        .lines()
        .find_map(|line| line.strip_prefix(layout.reclaimable)?.trim().parse().ok())
        .unwrap_or(0u64);
    Some(limit.saturating_sub(used.saturating_sub(reclaimable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:  4000 kB\nMemAvailable:   2000 kB\n",
    );

    #[test]
    fn without_cgroups_it_is_the_kernels_figure() {
        assert_eq!(available_under(root(&[MEMINFO]).path()), Some(2_048_000));
        assert_eq!(available_under(root(&[]).path()), None);
    }

    #[test]
    fn the_tightest_group_of_version_2_counts() {
        let root = root(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "1000000\n"),
            ("sys/fs/cgroup/a/memory.current", "700000\n"),
            (
                "sys/fs/cgroup/a/memory.stat",
                "anon 1\ninactive_file 200000\n",
            ),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "700000\n"),
        ]);
        assert_eq!(available_under(root.path()), Some(500_000));
    }

    #[test]
    fn version_1_with_a_path_that_is_not_mounted() {
        let root = root(&[
            MEMINFO,
            ("proc/self/cgroup", "5:cpu:/x\n4:hugetlb,memory:/docker/1\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "900000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1000000\n"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "total_inactive_file 150000\n",
            ),
        ]);
        assert_eq!(available_under(root.path()), Some(50_000));
    }

    #[test]
    fn a_group_without_limit_changes_nothing() {
        let root = root(&[
            MEMINFO,
            ("proc/self/cgroup", "4:memory:/\n"),
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n"),
        ]);
        assert_eq!(available_under(root.path()), Some(2_048_000));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory() {
        assert!(rss().unwrap() > 100_000);
        assert!(peak_rss().unwrap() > 100_000);
        assert!(available_memory().is_some());
    }
}
