//! The cache of one model, in the layout that all clients of the Hub share:
//!
//! ```text
//! models--org--name/blobs/<hash>               the content of every file
//!                   refs/main                  the commit of a branch or tag
//!                   snapshots/<commit>/<file>  links to blobs
//! .locks/models--org--name/<hash>.lock
//! ```

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::client::Repository;
use super::id::ModelId;
use super::lock::Lock;
use crate::error::{Error, Result};

/// Depth of the folders of a snapshot that are looked at.
const MAX_DEPTH: usize = 4;

/// The folders of one model.
#[derive(Debug)]
pub struct ModelCache {
    root: PathBuf,
    folder_name: String,
    repo: CacheRepo,
    revision: String,
}

impl ModelCache {
    /// The cache of a model below a folder, which need not exist yet.
    pub fn new(root: &Path, id: &ModelId) -> Self {
        let repo = repo(id);
        Self {
            root: root.to_owned(),
            folder_name: repo.folder_name(),
            repo: Cache::new(root.to_owned()).repo(repo),
            revision: id.revision.clone(),
        }
    }

    /// The folder of all models.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a commit.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit)
    }

    /// Where a blob lies.
    pub fn blob(&self, hash: &str) -> PathBuf {
        self.repo.blob_path(hash)
    }

    /// Where the part of a blob lies that was downloaded.
    pub fn incomplete(&self, hash: &str) -> PathBuf {
        self.repo.blob_path(&format!("{hash}.incomplete"))
    }

    /// The commit that the revision meant when it was last asked for, if there is
    /// something of it.
    pub fn known_commit(&self) -> Option<String> {
        let named = fs::read_to_string(self.reference());
        let commit = match named {
            Ok(text) => text.trim().to_owned(),
            Err(_) => self.revision.clone(),
        };
        (is_commit(&commit) && self.snapshot(&commit).is_dir()).then_some(commit)
    }

    /// Notes the commit of the revision.
    ///
    /// # Errors
    /// If the note cannot be written.
    pub fn remember(&self, commit: &str) -> Result<()> {
        let path = self.reference();
        if self.revision == commit || fs::read_to_string(&path).is_ok_and(|old| old == commit) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&self.root);
        let write = |error| Error::io("write", &path, error);
        fs::create_dir_all(folder).map_err(write)?;
        // Others may read it at any time: it is there whole or not at all.
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(write)?;
        file.write_all(commit.as_bytes()).map_err(write)?;
        file.persist(&path).map_err(|error| write(error.error))?;
        Ok(())
    }

    /// Waits until nobody else downloads a blob.
    ///
    /// # Errors
    /// If the lock cannot be had; after an interrupt.
    pub fn lock(&self, hash: &str, what: &str, repository: &Repository) -> Result<Lock> {
        let folder = self.root.join(".locks").join(&self.folder_name);
        Lock::wait(&folder.join(format!("{hash}.lock")), what, repository)
    }

    /// Puts a blob under a file's name into a snapshot.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn link(&self, hash: &str, commit: &str, name: &str) -> Result<PathBuf> {
        let path = self.snapshot(commit).join(name);
        if path.exists() {
            return Ok(path);
        }
        let link = |error| Error::io("create", &path, error);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(link)?;
        }
        // A link that leads nowhere would be in the way.
        if fs::symlink_metadata(&path).is_ok() {
            fs::remove_file(&path).map_err(link)?;
        }
        // Relative, so that the cache can be moved.
        let up = "../".repeat(2 + name.split('/').count() - 1);
        let target = format!("{up}blobs/{hash}");
        match std::os::unix::fs::symlink(target, &path) {
            Ok(()) => {}
            // Another process was faster.
            Err(_) if path.exists() => {}
            // A file system without links: the file itself, as other clients do.
            Err(_) => fs::rename(self.blob(hash), &path).map_err(link)?,
        }
        Ok(path)
    }

    /// Names of all files of a snapshot, sorted.
    pub fn names(&self, commit: &str) -> Vec<String> {
        let mut names = Vec::new();
        collect(&self.snapshot(commit), "", MAX_DEPTH, &mut names);
        names.sort();
        names
    }

    fn reference(&self) -> PathBuf {
        self.root
            .join(&self.folder_name)
            .join("refs")
            .join(&self.revision)
    }
}

/// The repository as hf-hub names it.
pub fn repo(id: &ModelId) -> Repo {
    Repo::with_revision(id.repository.clone(), RepoType::Model, id.revision.clone())
}

/// Whether a text is the full name of a commit.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a hash that a server names can be the name of a blob.
pub fn is_blob_name(hash: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    hash.starts_with(|c: char| c.is_ascii_alphanumeric())
        && (8..=128).contains(&hash.len())
        && hash.chars().all(plain)
}

/// Links that lead nowhere (a blob that was cleaned away) do not count.
fn collect(folder: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let path = entry.path();
        let name = format!("{prefix}{name}");
        if path.is_file() {
            names.push(name);
        } else if depth > 1 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&path, &format!("{name}/"), depth - 1, names);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn cache(root: &Path, text: &str) -> ModelCache {
        ModelCache::new(root, &ModelId::parse(text).unwrap())
    }

    #[test]
    fn the_layout_is_the_shared_one() {
        let cache = cache(Path::new("/c"), "org/na-me@v1");
        assert_eq!(
            cache.snapshot(COMMIT),
            Path::new("/c/models--org--na-me/snapshots").join(COMMIT)
        );
        assert_eq!(
            cache.blob("ab"),
            Path::new("/c/models--org--na-me/blobs/ab")
        );
        assert_eq!(
            cache.reference(),
            Path::new("/c/models--org--na-me/refs/v1")
        );
    }

    #[test]
    fn revisions_are_remembered_and_links_are_relative() {
        let root = tempfile::tempdir().unwrap();
        let cache = cache(root.path(), "org/name@refs/pr/1");
        assert_eq!(cache.known_commit(), None);
        cache.remember(COMMIT).unwrap();
        assert_eq!(cache.known_commit(), None, "nothing of it is here");
        let blob = cache.blob("abcdefgh");
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::write(&blob, "content").unwrap();
        for name in ["config.json", "a/b.json"] {
            let path = cache.link("abcdefgh", COMMIT, name).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"content");
            assert!(fs::read_link(&path).unwrap().is_relative());
        }
        assert_eq!(cache.known_commit().unwrap(), COMMIT);
        assert_eq!(cache.names(COMMIT), ["a/b.json", "config.json"]);
        // Once more, and after the blob has been cleaned away.
        cache.link("abcdefgh", COMMIT, "config.json").unwrap();
        fs::remove_file(&blob).unwrap();
        assert!(cache.names(COMMIT).is_empty());
        fs::write(cache.blob("ijklmnop"), "new").unwrap();
        let path = cache.link("ijklmnop", COMMIT, "config.json").unwrap();
        assert_eq!(fs::read(path).unwrap(), b"new");
    }

    #[test]
    fn names_of_blobs_stay_inside() {
        assert!(is_blob_name(COMMIT));
        for hash in ["", "short", "../../../etc", "a/b/c/d/e/f", "........", ".."] {
            assert!(!is_blob_name(hash), "{hash}");
        }
        assert!(!is_commit("main") && is_commit(COMMIT));
    }
}
