//! Activations on the disk: where a killed calibration goes on.
//!
//! A file `block-<n>.activations` holds what enters block `n`: a line of JSON that says what it
//! belongs to, the numbers (little-endian), and a CRC-32 of them. It appears under its name when
//! it is durable and so is all that was encoded before, and only then the one before is removed.
//! A thread waits for both while the run goes on.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use serde::{Deserialize, Serialize};

use super::Activations;
use crate::error::{Error, ExitCode, Result};
use crate::job::Durable;

const EXTENSION: &str = "activations";
/// Longest first line.
const MAX_HEADER: u64 = 4096;
/// Rows that are copied at a time.
const ROWS: usize = 1024;

/// The checkpoint of a run.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    /// What the run is recognised by.
    key: String,
    /// Gives the latest file its name.
    publishing: Option<JoinHandle<Result<()>>>,
}

/// What a file belongs to.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    key: String,
    block: usize,
    rows: usize,
    cols: usize,
}

impl Checkpoint {
    /// In a folder, which is created.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn new(folder: &Path, key: &str) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|error| failed("create", folder, error))?;
        Ok(Self {
            folder: folder.to_owned(),
            key: key.to_owned(),
            publishing: None,
        })
    }

    /// Fills the activations with those of the latest block that is not after `last`, and
    /// returns that block; `None` if there are none that are whole and of this run.
    pub fn load(&self, last: usize, into: &mut Activations, cols: usize) -> Option<usize> {
        let mut blocks: Vec<usize> = self.blocks();
        blocks.retain(|block| *block <= last);
        blocks.sort_unstable();
        let mut latest_first = blocks.into_iter().rev();
        latest_first.find(|block| self.read(*block, into, cols).is_some())
    }

    /// Keeps what enters a block, and drops what was kept before, when what was encoded before is
    /// `durable`. If that fails, the one before stays.
    ///
    /// # Errors
    /// If this one or the one before cannot be written.
    pub fn save(
        &mut self,
        block: usize,
        activations: &Activations,
        cols: usize,
        durable: Option<Durable>,
    ) -> Result<()> {
        self.settle()?;
        let path = self.path(block);
        let partial = Partial(path.with_extension("partial"));
        let file = self.write(&partial.0, block, activations, cols)?;
        let before: Vec<PathBuf> = self
            .blocks()
            .into_iter()
            .filter(|other| *other != block)
            .map(|other| self.path(other))
            .collect();
        let publish = move || {
            file.sync_data()
                .map_err(|error| failed("write", &partial.0, error))?;
            if durable.is_none_or(Durable::wait) {
                fs::rename(&partial.0, &path).map_err(|error| failed("write", &path, error))?;
                before.iter().for_each(|path| drop(fs::remove_file(path)));
            }
            Ok(())
        };
        let thread = thread::Builder::new().name("checkpoint".into());
        let started = thread.spawn(publish);
        self.publishing =
            Some(started.map_err(|error| Error::other(format!("cannot start a thread: {error}")))?);
        Ok(())
    }

    /// Waits for the thread that publishes.
    fn settle(&mut self) -> Result<()> {
        let failed = |_| Err(Error::other("the checkpoint's thread failed"));
        let ended = self.publishing.take().map(JoinHandle::join);
        ended.map_or(Ok(()), |ended| ended.unwrap_or_else(failed))
    }

    /// Removes what was kept when what was encoded is `durable`.
    ///
    /// # Errors
    /// If what was kept last could not be written.
    pub fn clear(&mut self, durable: Option<Durable>) -> Result<()> {
        self.settle()?;
        if durable.is_none_or(Durable::wait) {
            for block in self.blocks() {
                drop(fs::remove_file(self.path(block)));
            }
        }
        Ok(())
    }

    fn path(&self, block: usize) -> PathBuf {
        self.folder.join(format!("block-{block}.{EXTENSION}"))
    }

    /// The blocks that there are files of.
    fn blocks(&self) -> Vec<usize> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names
            .filter_map(|name| {
                let number = name.strip_prefix("block-")?.strip_suffix(EXTENSION)?;
                number.strip_suffix('.')?.parse().ok()
            })
            .collect()
    }

    fn header(&self, block: usize, activations: &Activations, cols: usize) -> Header {
        Header {
            key: self.key.clone(),
            block,
            rows: activations.rows(),
            cols,
        }
    }

    fn write(
        &self,
        path: &Path,
        block: usize,
        activations: &Activations,
        cols: usize,
    ) -> Result<File> {
        let io = |error| failed("write", path, error);
        let file = File::create(path).map_err(io)?;
        let mut out = BufWriter::new(&file);
        let header = serde_json::to_string(&self.header(block, activations, cols))
            .map_err(|error| Error::other(format!("cannot describe a checkpoint: {error}")))?;
        writeln!(out, "{header}").map_err(io)?;
        let mut crc = crc32fast::Hasher::new();
        let mut rows = vec![0.0f32; ROWS * cols];
        for first in (0..activations.rows()).step_by(ROWS) {
            let count = ROWS.min(activations.rows() - first);
            let rows = &mut rows[..count * cols];
            activations.read(first, rows)?;
            let bytes: &[u8] = bytemuck::cast_slice(rows);
            crc.update(bytes);
            out.write_all(bytes).map_err(io)?;
        }
        out.write_all(&crc.finalize().to_le_bytes()).map_err(io)?;
        out.flush().map_err(io)?;
        drop(out);
        Ok(file)
    }

    /// `None` if the file is not whole or belongs to another run.
    fn read(&self, block: usize, into: &mut Activations, cols: usize) -> Option<()> {
        let mut file = BufReader::new(File::open(self.path(block)).ok()?);
        let mut line = String::new();
        file.by_ref().take(MAX_HEADER).read_line(&mut line).ok()?;
        let header: Header = serde_json::from_str(&line).ok()?;
        if header != self.header(block, into, cols) {
            return None;
        }
        let mut crc = crc32fast::Hasher::new();
        let mut rows = vec![0.0f32; ROWS * cols];
        for first in (0..into.rows()).step_by(ROWS) {
            let count = ROWS.min(into.rows() - first);
            let rows = &mut rows[..count * cols];
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(rows);
            file.read_exact(bytes).ok()?;
            crc.update(bytes);
            into.write(first, rows).ok()?;
        }
        let mut checksum = [0; 4];
        file.read_exact(&mut checksum).ok()?;
        (u32::from_le_bytes(checksum) == crc.finalize()).then_some(())
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        // The run has failed already, or ended.
        drop(self.settle());
    }
}

/// A file that is removed unless it has got its name.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

fn failed(action: &str, path: &Path, error: std::io::Error) -> Error {
    let error = Error::io(action, path, error);
    match error.class {
        ExitCode::Other => error.class(ExitCode::Checkpoint),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(rows: usize, value: f32) -> Activations {
        let mut activations = Activations::new(rows, 3, 700, None).unwrap();
        activations.write(0, &vec![value; rows * 3]).unwrap();
        activations
    }

    fn first(activations: &Activations) -> f32 {
        let mut row = [0.0; 3];
        activations.read(0, &mut row).unwrap();
        row[0]
    }

    #[test]
    fn the_latest_block_that_is_early_enough_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoint = Checkpoint::new(&folder.path().join("a/b"), "k").unwrap();
        let mut into = filled(3000, 0.0);
        assert_eq!(checkpoint.load(9, &mut into, 3), None);
        checkpoint.save(2, &filled(3000, 2.0), 3, None).unwrap();
        checkpoint.save(3, &filled(3000, 3.0), 3, None).unwrap();
        checkpoint.settle().unwrap();
        assert_eq!(checkpoint.blocks(), [3], "the one before is gone");
        assert_eq!(checkpoint.load(2, &mut into, 3), None);
        assert_eq!(checkpoint.load(3, &mut into, 3), Some(3));
        assert_eq!(first(&into), 3.0);
        checkpoint.clear(None).unwrap();
        assert_eq!(checkpoint.load(9, &mut into, 3), None);
    }

    #[test]
    fn the_one_before_stays_until_what_was_encoded_is_durable() {
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoint = Checkpoint::new(folder.path(), "k").unwrap();
        checkpoint.save(1, &filled(10, 1.0), 3, None).unwrap();
        checkpoint.settle().unwrap();
        let (sender, durable) = Durable::channel();
        checkpoint
            .save(2, &filled(10, 2.0), 3, Some(durable))
            .unwrap();
        thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(checkpoint.blocks(), [1], "not yet");
        sender.send(()).unwrap();
        checkpoint.settle().unwrap();
        assert_eq!(checkpoint.blocks(), [2]);
        let (sender, durable) = Durable::channel();
        drop(sender);
        checkpoint
            .save(3, &filled(10, 3.0), 3, Some(durable))
            .unwrap();
        checkpoint.settle().unwrap();
        assert_eq!(checkpoint.blocks(), [2], "it never will be");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let (sender, durable) = Durable::channel();
        drop(sender);
        checkpoint.clear(Some(durable)).unwrap();
        assert_eq!(checkpoint.blocks(), [2]);
    }

    #[test]
    fn what_cannot_be_published_is_told_at_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoint = Checkpoint::new(folder.path(), "k").unwrap();
        fs::create_dir_all(checkpoint.path(1).join("in the way")).unwrap();
        checkpoint.save(1, &filled(10, 1.0), 3, None).unwrap();
        let error = checkpoint.save(2, &filled(10, 1.0), 3, None).unwrap_err();
        assert!(error.message.contains("block-1.activations"), "{error}");
    }

    #[test]
    fn other_runs_and_damaged_files_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoint = Checkpoint::new(folder.path(), "k").unwrap();
        checkpoint.save(1, &filled(10, 1.0), 3, None).unwrap();
        checkpoint.settle().unwrap();
        let other = Checkpoint::new(folder.path(), "other").unwrap();
        let mut into = filled(10, 0.0);
        assert_eq!(other.load(1, &mut into, 3), None);
        assert_eq!(checkpoint.load(1, &mut filled(11, 0.0), 3), None);
        let path = checkpoint.path(1);
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        let last = damaged.len() - 20;
        damaged[last] ^= 1;
        for bytes in [&whole[..whole.len() - 1], &damaged, b"", b"{}\n"] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(checkpoint.load(1, &mut into, 3), None);
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(checkpoint.load(1, &mut into, 3), Some(1));
    }
}
