//! The last step: the staged files get their own names.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::Destination;
use crate::error::{Error, Result};

/// Renames what was built to what it is called. Of several files the first, which
/// loaders open, comes last.
///
/// # Errors
/// If a rename fails; what was there before stays.
pub fn publish(destination: &Destination) -> Result<()> {
    let temporary = destination.temporary();
    for (temporary, target) in temporary.iter().zip(&destination.targets).rev() {
        replace(temporary, target)?;
    }
    sync_folder(&destination.folder);
    Ok(())
}

/// The targets that have their own name already although others have not: what a
/// power cut between two renames leaves.
pub fn half_published(destination: &Destination) -> Vec<(PathBuf, &Path)> {
    let exists = |path: &Path| fs::symlink_metadata(path).is_ok();
    let temporary = destination.temporary();
    if !temporary.iter().any(|path| exists(path)) {
        return Vec::new();
    }
    temporary
        .into_iter()
        .zip(&destination.targets)
        .filter(|(temporary, target)| !exists(temporary) && exists(target))
        .map(|(temporary, target)| (temporary, target.as_path()))
        .collect()
}

/// Gives half-published files their temporary names back.
///
/// # Errors
/// If a rename fails.
pub fn take_back(destination: &Destination) -> Result<()> {
    for (temporary, target) in half_published(destination) {
        fs::rename(target, &temporary).map_err(|error| Error::io("rename", target, error))?;
    }
    Ok(())
}

/// Removes a file or a folder, if there is one.
///
/// # Errors
/// If it cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let removed = match found.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    removed.map_err(|error| Error::io("remove", path, error))
}

/// Renames over whatever is there. A folder cannot be renamed over another one, so
/// the old one steps aside first and comes back if the new one fails.
fn replace(temporary: &Path, target: &Path) -> Result<()> {
    let failed = |error| Error::io("rename to", target, error);
    if !target.is_dir() {
        return fs::rename(temporary, target).map_err(failed);
    }
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let aside = target.with_file_name(format!(".{name}.old"));
    remove(&aside)?;
    fs::rename(target, &aside).map_err(failed)?;
    if let Err(error) = fs::rename(temporary, target) {
        fs::rename(&aside, target).map_err(failed)?;
        return Err(failed(error));
    }
    remove(&aside)
}

/// What was created, renamed or removed in a folder must survive a power cut; some
/// systems cannot sync a folder.
pub fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        drop(folder.sync_all());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(folder: &Path) -> Destination {
        Destination {
            folder: folder.to_owned(),
            targets: ["a", "b", "c"].map(|name| folder.join(name)).into(),
        }
    }

    #[test]
    fn a_half_published_output_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let to = destination(dir.path());
        for temporary in to.temporary() {
            fs::write(temporary, "new").unwrap();
        }
        // An old output that was to be replaced.
        fs::write(dir.path().join("a"), "old").unwrap();
        assert!(half_published(&to).is_empty());
        fs::rename(dir.path().join(".c.partial"), dir.path().join("c")).unwrap();
        assert_eq!(half_published(&to).len(), 1);
        take_back(&to).unwrap();
        assert!(to.temporary().iter().all(|path| path.exists()));
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"old");
        publish(&to).unwrap();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"new");
        // Finished: nothing to take back.
        assert!(half_published(&to).is_empty());
    }
}
