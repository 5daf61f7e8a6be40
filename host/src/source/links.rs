//! Links in a model's folder.
//!
//! A folder that somebody else packed may hold a link to any file of the user's, which
//! would then be read as a tokenizer or template and end up in the output. So links
//! must stay in the folder. The one layout that links out of it is the Hub's cache:
//! `snapshots/<commit>/<file>` leads to `blobs/<hash>`, two folders up.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Where files of a model's folder may lie in the end.
#[derive(Debug)]
pub(super) struct Inside {
    folder: PathBuf,
    /// `blobs` of the Hub's cache, if the folder is a snapshot of it.
    blobs: Option<PathBuf>,
}

impl Inside {
    /// Looks where a folder really is; the folder itself may be reached through links.
    ///
    /// # Errors
    /// If it cannot be found.
    pub(super) fn of(folder: &Path) -> Result<Self> {
        let real = |path: &Path| path.canonicalize();
        let folder = real(folder).map_err(|error| Error::io("read", folder, error))?;
        let snapshots = folder.parent();
        let is_snapshot = snapshots.is_some_and(|parent| parent.ends_with("snapshots"));
        let repository = snapshots.and_then(Path::parent).filter(|_| is_snapshot);
        // Were `blobs` a link itself, a forged cache could lead anywhere.
        let blobs = repository.map(|path| path.join("blobs"));
        let blobs = blobs.filter(|blobs| real(blobs).is_ok_and(|real| real == *blobs));
        Ok(Self { folder, blobs })
    }

    /// Refuses a file that lies elsewhere in the end.
    ///
    /// # Errors
    /// With the place that the link leads to.
    pub(super) fn check(&self, path: &Path) -> Result<()> {
        let real = path
            .canonicalize()
            .map_err(|error| Error::io("read", path, error))?;
        let in_blobs = self
            .blobs
            .as_ref()
            .is_some_and(|blobs| real.starts_with(blobs));
        if in_blobs || real.starts_with(&self.folder) {
            return Ok(());
        }
        Err(Error::validation(format!(
            "{} is a link that leaves the model's folder, to {}",
            path.display(),
            real.display()
        ))
        .suggest("if you trust the file, put a copy of it into the folder instead of the link"))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_must_stay_inside() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("model");
        fs::create_dir_all(folder.join("sub")).unwrap();
        fs::write(folder.join("sub/a"), "a").unwrap();
        fs::write(root.path().join("secret"), "s").unwrap();
        symlink("sub/a", folder.join("inside")).unwrap();
        symlink("../secret", folder.join("outside")).unwrap();
        symlink("..", folder.join("up")).unwrap();
        symlink(&folder, root.path().join("alias")).unwrap();
        for way in [folder.clone(), root.path().join("alias")] {
            let inside = Inside::of(&way).unwrap();
            for name in ["sub/a", "inside"] {
                assert!(inside.check(&way.join(name)).is_ok(), "{name}");
            }
            for name in ["outside", "up/secret"] {
                let error = inside.check(&way.join(name)).unwrap_err();
                assert!(
                    error.message.contains("leaves the model's folder"),
                    "{error}"
                );
                assert!(error.message.contains("secret"), "{error}");
            }
        }
    }

    #[test]
    fn the_hubs_cache_links_to_its_blobs() {
        let root = tempfile::tempdir().unwrap();
        let repository = root.path().join("models--a--b");
        let snapshot = repository.join("snapshots/c0ffee");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(repository.join("blobs")).unwrap();
        fs::write(repository.join("blobs/1234"), "{}").unwrap();
        fs::write(repository.join("refs"), "c0ffee").unwrap();
        symlink("../../blobs/1234", snapshot.join("config.json")).unwrap();
        symlink("../../refs", snapshot.join("notes.txt")).unwrap();
        let inside = Inside::of(&snapshot).unwrap();
        assert!(inside.check(&snapshot.join("config.json")).is_ok());
        assert!(inside.check(&snapshot.join("notes.txt")).is_err());
        fs::rename(repository.join("blobs"), root.path().join("elsewhere")).unwrap();
        symlink(root.path().join("elsewhere"), repository.join("blobs")).unwrap();
        let forged = Inside::of(&snapshot).unwrap();
        assert!(forged.check(&snapshot.join("config.json")).is_err());
        fs::remove_file(repository.join("blobs")).unwrap();
        fs::rename(root.path().join("elsewhere"), repository.join("blobs")).unwrap();
        assert!(
            Inside::of(&repository)
                .unwrap()
                .check(&snapshot.join("config.json"))
                .is_ok()
        );
    }
}
