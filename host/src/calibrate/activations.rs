//! The activations between two blocks: one row of numbers for each token of all samples.
//!
//! They are kept in memory, or in a temporary file where the memory budget is too small. Rows
//! are read and written by one thread, some thousands at a time.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// `rows × cols` numbers.
#[derive(Debug)]
pub struct Activations {
    rows: usize,
    cols: usize,
    store: Store,
}

#[derive(Debug)]
enum Store {
    Memory(Vec<f32>),
    /// A file without a name, in this folder: it is gone when the process is.
    Spilled(File, PathBuf),
}

impl Activations {
    /// Zeros, in memory or in a temporary file in the folder `spill`.
    ///
    /// # Errors
    /// If they are too many for this machine, or the file cannot be made.
    pub fn new(rows: usize, cols: usize, spill: Option<&Path>) -> Result<Self> {
        let count = rows.checked_mul(cols).ok_or_else(too_large)?;
        let store = match spill {
            None => {
                let mut values = Vec::new();
                values.try_reserve_exact(count).map_err(|_| too_large())?;
                values.resize(count, 0.0);
                Store::Memory(values)
            }
            Some(folder) => {
                let create = |error| Error::io("create a temporary file in", folder, error);
                let file = tempfile::tempfile_in(folder).map_err(create)?;
                let bytes = (count as u64).checked_mul(4).ok_or_else(too_large)?;
                file.set_len(bytes).map_err(create)?;
                Store::Spilled(file, folder.to_owned())
            }
        };
        Ok(Self { rows, cols, store })
    }

    /// Zeros for as many rows of another length, in the same kind of place.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn like(&self, cols: usize) -> Result<Self> {
        let spill = match &self.store {
            Store::Memory(_) => None,
            Store::Spilled(_, folder) => Some(folder.as_path()),
        };
        Self::new(self.rows, cols, spill)
    }

    /// The same place for rows of another length; the numbers are anything.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn reshaped(mut self, cols: usize) -> Result<Self> {
        let count = self.rows.checked_mul(cols).ok_or_else(too_large)?;
        match &mut self.store {
            // What is longer than it must be stays so: growing again would cost zeros.
            Store::Memory(values) if values.len() >= count => {}
            Store::Memory(values) => {
                values
                    .try_reserve_exact(count - values.len())
                    .map_err(|_| too_large())?;
                values.resize(count, 0.0);
            }
            Store::Spilled(file, folder) => {
                let bytes = (count as u64).checked_mul(4).ok_or_else(too_large)?;
                file.set_len(bytes)
                    .map_err(|error| Error::io("write a temporary file in", folder, error))?;
            }
        }
        self.cols = cols;
        Ok(self)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Copies whole rows, from row `first` on, as many as `out` has room for.
    ///
    /// # Errors
    /// If there are fewer, or the file cannot be read.
    pub fn read(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let start = self.start(first, out.len())?;
        match &self.store {
            Store::Memory(values) => out.copy_from_slice(&values[start..start + out.len()]),
            Store::Spilled(file, folder) => at(file, start)
                .and_then(|mut file| file.read_exact(bytemuck::cast_slice_mut(out)))
                .map_err(|error| Error::io("read a temporary file in", folder, error))?,
        }
        Ok(())
    }

    /// Replaces whole rows, from row `first` on.
    ///
    /// # Errors
    /// If there are fewer, or the file cannot be written.
    pub fn write(&mut self, first: usize, rows: &[f32]) -> Result<()> {
        let start = self.start(first, rows.len())?;
        match &mut self.store {
            Store::Memory(values) => values[start..start + rows.len()].copy_from_slice(rows),
            Store::Spilled(file, folder) => at(file, start)
                .and_then(|mut file| file.write_all(bytemuck::cast_slice(rows)))
                .map_err(|error| Error::io("write a temporary file in", folder, error))?,
        }
        Ok(())
    }

    /// The place of row `first` among the numbers, if `count` of them follow.
    fn start(&self, first: usize, count: usize) -> Result<usize> {
        let start = first.checked_mul(self.cols);
        let end = start.and_then(|start| start.checked_add(count));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.rows * self.cols => Ok(start),
            _ => Err(Error::other(format!(
                "there are no rows {first} and {count} numbers on among {} × {}",
                self.rows, self.cols
            ))),
        }
    }
}

/// The file, at the place of a number.
fn at(file: &File, number: usize) -> std::io::Result<&File> {
    let mut place = file;
    place.seek(SeekFrom::Start(number as u64 * 4))?;
    Ok(file)
}

fn too_large() -> Error {
    Error::new(
        crate::error::ExitCode::OutOfMemory,
        "the activations of all samples are too large for this machine",
    )
    .suggest("use fewer or shorter samples: --calibration-samples, --calibration-length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spill: Option<&Path>) {
        let mut activations = Activations::new(5, 3, spill).unwrap();
        activations
            .write(1, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
            .unwrap();
        let mut rows = [9.0; 9];
        activations.read(0, &mut rows).unwrap();
        assert_eq!(rows, [0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert!(activations.read(3, &mut rows).is_err());
        assert!(activations.write(usize::MAX, &rows).is_err());
        assert_eq!(activations.rows(), 5);
        for cols in [7, 2, 4] {
            activations = activations.reshaped(cols).unwrap();
            let rows: Vec<f32> = (0..5 * cols).map(|i| i as f32).collect();
            activations.write(0, &rows).unwrap();
            let mut last = vec![0.0; cols];
            activations.read(4, &mut last).unwrap();
            assert_eq!(last, rows[4 * cols..]);
            assert!(activations.read(5, &mut last).is_err());
        }
    }

    #[test]
    fn rows_come_back_from_memory_and_from_a_file() {
        check(None);
        check(Some(tempfile::tempdir().unwrap().path()));
    }

    #[test]
    fn sizes_that_no_machine_has_are_refused() {
        for cols in [usize::MAX, usize::MAX / 8] {
            let error = Activations::new(3, cols, None).unwrap_err();
            assert_eq!(error.class.code(), 5);
        }
        let missing = Path::new("/no/such/folder");
        assert!(Activations::new(3, 3, Some(missing)).is_err());
    }
}
