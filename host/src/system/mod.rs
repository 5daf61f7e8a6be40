//! What the machine has to offer: cores, memory, disk; and what this process uses.

mod memory;

use std::fs::File;
use std::path::Path;

pub use memory::{available_memory, peak_rss, rss};

/// The budget when none is given: so much of what is free.
const DEFAULT_SHARE_PERCENT: u64 = 80;
/// The budget where the system does not say what is free.
const DEFAULT_BUDGET: u64 = 4 << 30;

/// Whether the path still leads to the opened file.
#[cfg(unix)]
pub fn is_same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let pair = file
        .metadata()
        .and_then(|own| Ok((own, std::fs::metadata(path)?)));
    pair.is_ok_and(|(own, named)| (own.dev(), own.ino()) == (named.dev(), named.ino()))
}

/// Elsewhere an open file cannot be removed.
#[cfg(not(unix))]
pub fn is_same(_: &File, _: &Path) -> bool {
    true
}

/// Cores that the process may use: affinity and cgroup quota count.
pub fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The memory budget: what was asked for, else 80 % of what is free.
pub fn memory_budget(asked: Option<u64>) -> u64 {
    asked.unwrap_or_else(|| {
        available_memory().map_or(DEFAULT_BUDGET, |free| free / 100 * DEFAULT_SHARE_PERCENT)
    })
}

/// Free bytes for this user on the disk of a path; the path itself need not exist
/// yet. `None` if the system does not say.
pub fn free_disk(path: &Path) -> Option<u64> {
    let absolute = std::path::absolute(path).ok()?;
    let existing = absolute.ancestors().find(|folder| folder.exists())?;
    let disk = rustix::fs::statvfs(existing).ok()?;
    // File systems without a size of their own (ramfs, some network ones) say zero.
    let sized = disk.f_blocks > 0;
    sized.then(|| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Lets the process open as many files as the system allows it: a model may have
/// hundreds of shards, and the usual limit is 1024. If that fails, the old limit holds.
pub fn raise_file_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        let _ = setrlimit(Resource::Nofile, raised);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_of_a_path_that_does_not_exist_yet() {
        let folder = tempfile::tempdir().unwrap();
        let here = free_disk(folder.path()).unwrap();
        assert!(here > 0);
        assert!(free_disk(&folder.path().join("a/b/c")).is_some());
    }

    #[cfg(unix)]
    #[test]
    fn the_limit_on_files_is_as_high_as_it_may_be() {
        use rustix::process::{Resource, getrlimit};
        raise_file_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }

    #[test]
    fn the_budget_is_what_was_asked_for_or_less_than_what_is_free() {
        assert_eq!(memory_budget(Some(7)), 7);
        assert!(memory_budget(None) > 0);
        assert!(available_cores() >= 1);
    }
}
