//! Disk space for the staged files: taken before the work, so that a full disk shows
//! here and not as a fault in the middle of a write to a map.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use crate::error::{Error, Result};
use crate::job::preflight;
use crate::job::threads::CancelFlag;
use crate::system;

/// Zeros that are written at once where the file system cannot reserve.
const ZEROS: usize = 1 << 20;

/// Creates a file of this size with its blocks reserved.
///
/// # Errors
/// If the file cannot be created, or the disk is too small
/// ([`DiskSpace`](crate::error::ExitCode::DiskSpace), with how much is missing).
pub fn create(path: &Path, size: u64, cancel: &CancelFlag) -> Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|error| Error::io("create", path, error))?;
    take(&file, path, size, cancel)
}

/// Makes sure that a file of this size from an earlier run has all its blocks.
///
/// # Errors
/// As [`create`].
pub fn again(path: &Path, size: u64) -> Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| Error::io("open", path, error))?;
    match size == 0 {
        true => Ok(()),
        false => match allocate(&file, size) {
            // It has its full size: zeros, or what was put in their place, fill it.
            Err(error) if is_unsupported(&error) => Ok(()),
            result => result.map_err(|error| failed(path, size, error)),
        },
    }
}

fn take(file: &File, path: &Path, size: u64, cancel: &CancelFlag) -> Result<()> {
    if size == 0 {
        return Ok(());
    }
    let taken = match allocate(file, size) {
        Err(error) if is_unsupported(&error) => fill(file, size, cancel),
        result => result,
    };
    taken.map_err(|error| {
        // A failed reservation may hold blocks, which would count as used.
        drop(fs::remove_file(path));
        match cancel.is_set() {
            true => Error::interrupted(),
            false => failed(path, size, error),
        }
    })
}

fn failed(path: &Path, size: u64, error: io::Error) -> Error {
    let full = matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    );
    let folder = path.parent().unwrap_or(path);
    match system::free_disk(folder) {
        Some(free) if full && free < size => preflight::disk_full(folder, size, free),
        _ => Error::io("reserve space for", path, error),
    }
}

/// The ways in which file systems say that they cannot reserve.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unsupported | ErrorKind::InvalidInput
    )
}

/// Where nothing can be reserved, writing is the only way to own the blocks: a file
/// that merely has the length would fault once the disk is full.
fn fill(mut file: &File, size: u64, cancel: &CancelFlag) -> io::Result<()> {
    let zeros = vec![0; ZEROS];
    let mut left = size;
    while left > 0 {
        if cancel.is_set() {
            return Err(ErrorKind::Interrupted.into());
        }
        let step = left.min(ZEROS as u64);
        file.write_all(&zeros[..step as usize])?;
        left -= step;
    }
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn allocate(file: &File, size: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    Ok(fallocate(file, FallocateFlags::empty(), 0, size)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn allocate(_: &File, _: u64) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Bytes on the disk that a file holds already; 0 if there is none.
pub fn held(path: &Path) -> u64 {
    let Ok(found) = fs::symlink_metadata(path) else {
        return 0;
    };
    if found.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        return entries.map(|entry| held(&entry.path())).sum();
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::MetadataExt::blocks(&found).saturating_mul(512)
    }
    #[cfg(not(unix))]
    {
        found.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExitCode;

    #[test]
    fn reserved_files_hold_their_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        create(&path, 100_000, &CancelFlag::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 100_000);
        assert!(held(&path) >= 100_000);
        assert!(held(dir.path()) >= 100_000);
        again(&path, 100_000).unwrap();
        assert_eq!(held(&dir.path().join("none")), 0);
    }

    #[test]
    fn zeros_hold_the_blocks_where_nothing_can_be_reserved() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let file = File::create_new(&path).unwrap();
        let size = 2 * ZEROS as u64 + 17;
        fill(&file, size, &CancelFlag::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), size);
        assert!(held(&path) >= size);
        let cancel = CancelFlag::default();
        cancel
            .shared()
            .store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(fill(&file, size, &cancel).is_err());
    }

    #[test]
    fn what_no_disk_holds_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let error = create(&path, 1 << 55, &CancelFlag::default()).unwrap_err();
        assert!(!path.exists());
        // A file system may say that no file is that long before it looks for space.
        assert!(
            matches!(error.class, ExitCode::DiskSpace | ExitCode::Other),
            "{error}"
        );
        let full = failed(&path, u64::MAX, ErrorKind::StorageFull.into());
        assert_eq!(full.class, ExitCode::DiskSpace);
        assert!(full.message.contains("missing"), "{full}");
    }
}
