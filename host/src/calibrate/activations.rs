//! The activations between two blocks: one row of numbers for each token of all samples.
//!
//! They are kept in memory, or in a temporary file where the memory budget is too small. A run
//! works on them part by part: in memory a part and the buffer of whoever works on it change
//! places, and nothing is copied.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// `rows × cols` numbers.
#[derive(Debug)]
pub struct Activations {
    rows: usize,
    cols: usize,
    /// Rows of a part; the last one may have fewer.
    part: usize,
    store: Store,
}

#[derive(Debug)]
enum Store {
    /// A buffer for each part.
    Memory(Vec<Vec<f32>>),
    /// A file without a name, in this folder: it is gone when the process is.
    Spilled(File, PathBuf),
}

impl Activations {
    /// Zeros, in memory or in a temporary file in the folder `spill`, to be worked on in parts of
    /// so many rows.
    ///
    /// # Errors
    /// If they are too many for this machine, or the file cannot be made.
    pub fn new(rows: usize, cols: usize, part: usize, spill: Option<&Path>) -> Result<Self> {
        let part = part.max(1);
        let store = match spill {
            None => Store::Memory(vec![Vec::new(); rows.div_ceil(part)]),
            Some(folder) => {
                let create = |error| Error::io("create a temporary file in", folder, error);
                let file = tempfile::tempfile_in(folder).map_err(create)?;
                Store::Spilled(file, folder.to_owned())
            }
        };
        let empty = Self {
            rows,
            cols: 0,
            part,
            store,
        };
        empty.reshaped(cols)
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
        Self::new(self.rows, cols, self.part, spill)
    }

    /// The same place for rows of another length; the numbers are anything.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn reshaped(mut self, cols: usize) -> Result<Self> {
        let count = self.rows.checked_mul(cols).ok_or_else(too_large)?;
        self.cols = cols;
        let sizes = (0..self.rows).step_by(self.part);
        let sizes = sizes.map(|first| self.part.min(self.rows - first) * cols);
        match &mut self.store {
            Store::Memory(parts) => {
                for (part, size) in parts.iter_mut().zip(sizes) {
                    let more = size.saturating_sub(part.len());
                    part.try_reserve_exact(more).map_err(|_| too_large())?;
                    part.resize(size, 0.0);
                }
            }
            Store::Spilled(file, folder) => {
                let bytes = (count as u64).checked_mul(4).ok_or_else(too_large)?;
                file.set_len(bytes)
                    .map_err(|error| Error::io("write a temporary file in", folder, error))?;
            }
        }
        Ok(self)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Gets the part that begins with row `first` into a buffer of its length. In memory they
    /// change places: what is here then is anything, until the part is [put](Self::put) back.
    ///
    /// # Errors
    /// If there is no such part, or the file cannot be read.
    pub fn take(&mut self, first: usize, buffer: &mut Vec<f32>) -> Result<()> {
        match self.buffer(first, buffer.len())? {
            Some(part) => std::mem::swap(part, buffer),
            None => self.read(first, buffer)?,
        }
        Ok(())
    }

    /// Makes a buffer the part that begins with row `first`, whatever is in the buffer then. One
    /// that did not `change` since it was taken need not go into a file.
    ///
    /// # Errors
    /// If there is no such part, or the file cannot be written.
    pub fn put(&mut self, first: usize, buffer: &mut Vec<f32>, change: bool) -> Result<()> {
        match self.buffer(first, buffer.len())? {
            Some(part) => std::mem::swap(part, buffer),
            None if change => self.write(first, buffer)?,
            None => {}
        }
        Ok(())
    }

    /// The buffer of a part, if it is in memory.
    fn buffer(&mut self, first: usize, count: usize) -> Result<Option<&mut Vec<f32>>> {
        let (part, missing) = (self.part, self.missing(first, count));
        match &mut self.store {
            Store::Spilled(..) => Ok(None),
            Store::Memory(parts) => {
                let found = parts.get_mut(first / part);
                let fits =
                    |found: &&mut Vec<f32>| found.len() == count && first.is_multiple_of(part);
                found.filter(fits).map(Some).ok_or(missing)
            }
        }
    }

    /// Copies whole rows, from row `first` on, as many as `out` has room for.
    ///
    /// # Errors
    /// If there are fewer, or the file cannot be read.
    pub fn read(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let numbers = self.numbers(first, out.len())?;
        match &self.store {
            Store::Memory(parts) => {
                let mut rest = out;
                for (part, place) in places(numbers, self.part * self.cols) {
                    let (out, after) = rest.split_at_mut(place.len());
                    out.copy_from_slice(&parts[part][place]);
                    rest = after;
                }
            }
            Store::Spilled(file, folder) => at(file, numbers.start)
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
        let numbers = self.numbers(first, rows.len())?;
        match &mut self.store {
            Store::Memory(parts) => {
                let mut rest = rows;
                for (part, place) in places(numbers, self.part * self.cols) {
                    let (rows, after) = rest.split_at(place.len());
                    parts[part][place].copy_from_slice(rows);
                    rest = after;
                }
            }
            Store::Spilled(file, folder) => at(file, numbers.start)
                .and_then(|mut file| file.write_all(bytemuck::cast_slice(rows)))
                .map_err(|error| Error::io("write a temporary file in", folder, error))?,
        }
        Ok(())
    }

    /// Where `count` numbers from row `first` on are among all.
    fn numbers(&self, first: usize, count: usize) -> Result<Range<usize>> {
        let start = first.checked_mul(self.cols);
        let end = start.and_then(|start| start.checked_add(count));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.rows * self.cols => Ok(start..end),
            _ => Err(self.missing(first, count)),
        }
    }

    fn missing(&self, first: usize, count: usize) -> Error {
        Error::other(format!(
            "there are no rows {first} and {count} numbers on among {} × {}",
            self.rows, self.cols
        ))
    }
}

/// Parts of `size` numbers each, and what of a range lies in them.
fn places(range: Range<usize>, size: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let size = size.max(1);
    let first = range.start / size;
    let last = range.end.div_ceil(size);
    (first..last).map(move |part| {
        let start = part * size;
        let from = range.start.max(start) - start;
        (part, from..range.end.min(start + size) - start)
    })
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
        let mut activations = Activations::new(5, 3, 2, spill).unwrap();
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
        // Parts: rows 0 and 1, 2 and 3, 4.
        let mut part = vec![0.0; 8];
        activations.take(2, &mut part).unwrap();
        assert_eq!(part, [8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0]);
        part[0] = -1.0;
        activations.put(2, &mut part, true).unwrap();
        let mut rows = [0.0; 12];
        activations.read(1, &mut rows).unwrap();
        assert_eq!(rows[..5], [4.0, 5.0, 6.0, 7.0, -1.0]);
        assert!(activations.take(6, &mut vec![0.0; 8]).is_err());
        assert!(activations.put(4, &mut vec![0.0; 8], true).is_err());
        activations.take(4, &mut vec![0.0; 4]).unwrap();
    }

    #[test]
    fn rows_come_back_from_memory_and_from_a_file() {
        check(None);
        check(Some(tempfile::tempdir().unwrap().path()));
    }

    #[test]
    fn sizes_that_no_machine_has_are_refused() {
        for cols in [usize::MAX, usize::MAX / 8] {
            let error = Activations::new(3, cols, 1, None).unwrap_err();
            assert_eq!(error.class.code(), 5);
        }
        let missing = Path::new("/no/such/folder");
        assert!(Activations::new(3, 3, 1, Some(missing)).is_err());
    }
}
