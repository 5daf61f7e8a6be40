//! Where the journal's bytes go.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};

use super::{Header, Place};
use crate::error::{Error, ExitCode, Result};
use crate::job::staging::{StagedFile, file_name, sync_folder};

/// The operations whose order decides what a power cut leaves.
pub trait Storage: Send + 'static {
    /// Makes what was written to these staged files durable.
    ///
    /// # Errors
    /// If the disk reports a failure: then the data may be lost.
    fn sync_files(&mut self, files: &BTreeSet<usize>) -> Result<()>;

    /// Adds bytes to the journal.
    ///
    /// # Errors
    /// If they cannot be written, e.g. because the disk is full.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes the journal durable.
    ///
    /// # Errors
    /// If the disk reports a failure.
    fn sync_journal(&mut self) -> io::Result<()>;
}

/// The real one.
#[derive(Debug)]
pub struct FileStorage {
    journal: File,
    staged: Vec<StagedFile>,
}

impl FileStorage {
    /// A new journal, in place of whatever is there. It appears under its name when it
    /// is durable, so no crash leaves one without its header. `reserve` is the space that
    /// records will take.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(
        place: &Place,
        header: &Header,
        reserve: u64,
        staged: Vec<StagedFile>,
    ) -> io::Result<Self> {
        let folder = place.folder();
        fs::create_dir_all(folder)?;
        // One name for all runs, so that a crash here leaves one file at most.
        let temporary = folder.join(format!(".{}.new", file_name(&place.path)));
        let mut journal = File::create(&temporary)?;
        serde_json::to_writer(&journal, header)?;
        writeln!(journal)?;
        journal.sync_all()?;
        fs::rename(&temporary, &place.path)?;
        take_space(&journal, reserve);
        sync_folder(folder);
        if let Some(parent) = folder.parent() {
            sync_folder(parent);
        }
        Ok(Self { journal, staged })
    }

    /// The journal of an earlier run, to be continued after its first `valid` bytes.
    ///
    /// # Errors
    /// If it cannot be opened for writing.
    pub fn reopen(
        place: &Place,
        valid: u64,
        reserve: u64,
        staged: Vec<StagedFile>,
    ) -> io::Result<Self> {
        let mut journal = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&place.path)?;
        journal.set_len(valid)?;
        journal.seek(SeekFrom::End(0))?;
        take_space(&journal, valid.saturating_add(reserve));
        Ok(Self { journal, staged })
    }
}

impl Storage for FileStorage {
    fn sync_files(&mut self, files: &BTreeSet<usize>) -> Result<()> {
        let staged = files.iter().filter_map(|index| self.staged.get(*index));
        staged.into_iter().try_for_each(StagedFile::sync)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.journal.write_all(bytes)
    }

    fn sync_journal(&mut self) -> io::Result<()> {
        self.journal.sync_data()
    }
}

/// Takes blocks for so many bytes without changing the length. Only so that a disk
/// that fills up meanwhile does not end the checkpoints; it may fail.
fn take_space(journal: &File, bytes: u64) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::fs::{FallocateFlags, fallocate};
        let _ = fallocate(journal, FallocateFlags::KEEP_SIZE, 0, bytes.max(1));
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (journal, bytes);
}

/// The journal cannot be made at all.
pub fn cannot_create(place: &Place, error: io::Error) -> Error {
    Error::io("write the checkpoint", &place.path, error)
        .class(ExitCode::Checkpoint)
        .suggest("name another folder with --checkpoint-dir, or use --no-checkpoints")
}

#[cfg(test)]
mod tests {
    use super::super::header::tests::header;
    use super::*;
    use std::path::Path;

    fn place(folder: &Path) -> Place {
        Place {
            path: folder.join(".checkpoint/m.journal"),
            own_folder: true,
            named: false,
        }
    }

    #[test]
    fn a_journal_begins_with_its_header_and_goes_on_after_what_is_valid() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let mut storage = FileStorage::create(&place, &header(), 1 << 16, Vec::new()).unwrap();
        storage.append(b"one\ntw").unwrap();
        storage.sync_journal().unwrap();
        drop(storage);
        let text = || fs::read_to_string(&place.path).unwrap();
        let first = serde_json::to_string(&header()).unwrap();
        assert_eq!(text(), format!("{first}\none\ntw"));
        let valid = first.len() as u64 + 5;
        let mut storage = FileStorage::reopen(&place, valid, 100, Vec::new()).unwrap();
        storage.append(b"two\n").unwrap();
        assert_eq!(text(), format!("{first}\none\ntwo\n"));
        // Nothing else is left in the folder.
        assert_eq!(fs::read_dir(place.folder()).unwrap().count(), 1);
    }

    #[test]
    fn a_staged_file_that_is_gone_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let mut storage = FileStorage::create(&place, &header(), 0, Vec::new()).unwrap();
        storage.sync_files(&BTreeSet::from([0, 5])).unwrap();
        drop(storage);
        fs::remove_dir_all(dir.path()).unwrap();
        assert!(FileStorage::reopen(&place, 7, 0, Vec::new()).is_err());
    }
}
