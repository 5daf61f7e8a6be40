//! Files mapped into memory, read only. The only unsafe code of the sources.

use std::fs::{File, Metadata};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::{Advice, Mmap, UncheckedAdvice};

use crate::error::{Error, Result};
use crate::fatal::{MappedRange, Purpose};

/// A regular file, mapped; nothing is read until it is looked at.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    name: String,
    stamp: Stamp,
    /// Before the mapping, which it must not outlive.
    _range: Option<MappedRange>,
    /// `None` for an empty file, which cannot be mapped everywhere.
    map: Option<Mmap>,
}

/// What of a file's metadata tells that its content changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<std::time::SystemTime>,
    /// Device and inode: another file under the same name is no change of this one.
    identity: (u64, u64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt;
            (metadata.dev(), metadata.ino())
        };
        #[cfg(not(unix))]
        let identity = (0, 0);
        Self {
            length: metadata.len(),
            modified: metadata.modified().ok(),
            identity,
        }
    }
}

impl MappedFile {
    /// Maps a file under its own name.
    ///
    /// # Errors
    /// If it is no regular file (a pipe would block for ever) or cannot be mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default();
        Self::open_as(path, name.to_string_lossy().into_owned())
    }

    /// Maps a file under another name, e.g. one that is relative to a folder.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_as(path: &Path, name: String) -> Result<Self> {
        let read = |error| Error::io("read", path, error);
        if !std::fs::metadata(path).map_err(read)?.is_file() {
            return Err(Error::validation(format!(
                "{} is not a regular file",
                path.display()
            )));
        }
        let file = File::open(path).map_err(read)?;
        let stamp = Stamp::of(&file.metadata().map_err(read)?);
        let map = match stamp.length {
            0 => None,
            // SAFETY: the mapping is read only and is only ever given out as plain
            // bytes, for which every content is valid; whatever is parsed from them
            // is checked or copied first. Another process that writes to the file
            // during a run spoils the numbers, which `check_unchanged` finds out; one
            // that shortens it causes a bus error, which `fatal` reports.
            _ => Some(unsafe { Mmap::map(&file) }.map_err(|error| Error::io("map", path, error))?),
        };
        let range = map
            .as_deref()
            .map(|bytes| MappedRange::new(bytes, path, Purpose::Input));
        Ok(Self {
            path: path.to_owned(),
            name,
            stamp,
            _range: range,
            map,
        })
    }

    /// Refuses to go on if somebody wrote to the file since it was mapped: what was
    /// read until now may be a mixture. A file that was replaced or removed as a whole
    /// is no problem, the mapping still has the old one.
    ///
    /// # Errors
    /// [`ExitCode::Validation`](crate::ExitCode::Validation) with the file's path.
    pub fn check_unchanged(&self) -> Result<()> {
        let Ok(metadata) = std::fs::metadata(&self.path) else {
            return Ok(());
        };
        let now = Stamp::of(&metadata);
        if now.identity != self.stamp.identity || now == self.stamp {
            return Ok(());
        }
        let what = match (self.stamp.length, now.length) {
            (before, after) if before == after => "it was written to".to_owned(),
            (before, after) => format!("it had {before} bytes, now it has {after}"),
        };
        Err(Error::validation(format!(
            "{} changed while it was in use: {what}",
            self.path.display()
        ))
        .suggest("let downloads and copies finish first, then run the same command again"))
    }

    /// The name that it was opened under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole content.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Lets the system begin to read a range from the disk, if it is not in the page
    /// cache; does not wait for it.
    ///
    /// A range outside the file, or a system that cannot do it, changes nothing:
    /// this is advice.
    pub fn prefetch(&self, range: Range<u64>) {
        let Some(map) = &self.map else { return };
        let (Ok(start), Ok(end)) = (usize::try_from(range.start), usize::try_from(range.end))
        else {
            return;
        };
        if start < end && end <= map.len() {
            // Advice that is not taken only costs time.
            drop(map.advise_range(Advice::WillNeed, start, end - start));
        }
    }

    /// Takes the file's pages out of the process's memory; looking at them again brings
    /// them back. Advice, as [`prefetch`](Self::prefetch).
    ///
    /// They stay in the page cache, as a second output of the same model is often made
    /// right after the first. If memory is short, the system takes first what nobody has
    /// mapped, so nothing would be gained by dropping them there.
    pub fn release(&self) {
        let Some(map) = &self.map else { return };
        // SAFETY: the mapping is shared, read only and backed by the file, so the
        // dropped pages come back with the same content; no borrow can observe it.
        let advised = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) };
        // Advice that is not taken only costs memory.
        drop(advised);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_pages_come_back_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let content: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = MappedFile::open(&path).unwrap();
        assert_eq!(file.bytes(), content);
        file.release();
        file.prefetch(5000..90_000);
        file.prefetch(90_000..100_001);
        assert_eq!(file.bytes(), content);
        assert_eq!(file.name(), "data");
    }

    #[test]
    fn changes_are_noticed_and_replacements_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        std::fs::write(&path, [1; 5000]).unwrap();
        let file = MappedFile::open(&path).unwrap();
        file.check_unchanged().unwrap();

        let other = folder.path().join("other");
        std::fs::write(&other, [2; 10]).unwrap();
        std::fs::rename(&other, &path).unwrap();
        file.check_unchanged().unwrap();
        assert_eq!(file.bytes(), [1; 5000]);
        std::fs::remove_file(&path).unwrap();
        file.check_unchanged().unwrap();

        std::fs::write(&path, [1; 5000]).unwrap();
        let file = MappedFile::open(&path).unwrap();
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
        let handle = File::options().append(true).open(&path).unwrap();
        handle.set_modified(later).unwrap();
        let error = file.check_unchanged().unwrap_err();
        assert!(error.message.contains("was written to"), "{error}");
        handle.set_len(5001).unwrap();
        let error = file.check_unchanged().unwrap_err();
        assert!(
            error.message.contains("5000 bytes, now it has 5001"),
            "{error}"
        );
        assert_eq!(error.class, crate::ExitCode::Validation);
    }

    #[test]
    fn empty_files_and_folders() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        let file = MappedFile::open(&path).unwrap();
        assert!(file.is_empty());
        file.release();
        file.prefetch(0..1);
        assert!(MappedFile::open(folder.path()).is_err());
        assert!(MappedFile::open(&folder.path().join("missing")).is_err());
    }
}
