//! A file mapped for writing. The only unsafe code of the job engine.

use std::fs::File;
use std::marker::PhantomData;
use std::path::Path;

use memmap2::{MmapMut, MmapOptions};

use crate::fatal::{MappedRange, Purpose};

/// A staged file in memory.
#[derive(Debug)]
pub struct OutputMap {
    /// Before the mapping, which it must not outlive.
    _range: Option<MappedRange>,
    /// `None` for an empty file.
    map: Option<MmapMut>,
}

impl OutputMap {
    /// Maps a file of this size for writing.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn new(file: &File, path: &Path, size: u64) -> std::io::Result<Self> {
        let Ok(len) = usize::try_from(size) else {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        };
        let map = match len {
            0 => None,
            // SAFETY: the file was created by this process under a temporary name and
            // has its full size; nobody else is expected to write to it, and every
            // byte pattern is a valid u8.
            _ => Some(unsafe { MmapOptions::new().len(len).map_mut(file)? }),
        };
        let range = map
            .as_deref()
            .map(|bytes| MappedRange::new(bytes, path, Purpose::Output));
        Ok(Self { _range: range, map })
    }

    /// The whole content.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// The whole content, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or_default()
    }

    /// The whole content, to be written, and its pages, which can be let go meanwhile.
    pub fn split_mut(&mut self) -> (&mut [u8], Pages<'_>) {
        let bytes = self.bytes_mut();
        let pages = Pages {
            start: bytes.as_mut_ptr().expose_provenance(),
            len: bytes.len(),
            map: PhantomData,
        };
        (bytes, pages)
    }

    /// As [`Pages::release`].
    pub fn release(&self) {
        let bytes = self.bytes();
        Pages {
            start: bytes.as_ptr().expose_provenance(),
            len: bytes.len(),
            map: PhantomData,
        }
        .release();
    }
}

/// The pages of a whole [`OutputMap`].
#[derive(Debug, Clone, Copy)]
pub struct Pages<'m> {
    start: usize,
    len: usize,
    /// The mapping stays as long.
    map: PhantomData<&'m OutputMap>,
}

impl Pages<'_> {
    /// Takes them out of the process's memory; the page cache keeps them until they are
    /// on the disk. Advice: a failure costs memory.
    pub fn release(self) {
        #[cfg(unix)]
        if self.len > 0 {
            use rustix::mm::{Advice, madvise};
            let start = std::ptr::with_exposed_provenance_mut(self.start);
            // SAFETY: the range is the whole of a shared mapping of a file, which lives
            // as long as this. Dropping such pages loses nothing: what was written to
            // them is in the page cache, from where they come back, as they were, on the
            // next touch; so no borrow of them can observe it.
            let _ = unsafe { madvise(start, self.len, Advice::LinuxDontNeed) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_bytes_are_still_there() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let mut map = OutputMap::new(&file, Path::new("x"), 1 << 20).unwrap();
        let (bytes, pages) = map.split_mut();
        bytes.fill(7);
        pages.release();
        bytes[0] = 8;
        assert_eq!(bytes[0], 8);
        assert!(bytes[1..].iter().all(|byte| *byte == 7));
        map.release();
        assert_eq!(map.bytes()[..2], [8, 7]);
    }

    #[test]
    fn empty_files_have_no_bytes() {
        let file = tempfile::tempfile().unwrap();
        let mut map = OutputMap::new(&file, Path::new("x"), 0).unwrap();
        let (bytes, pages) = map.split_mut();
        pages.release();
        assert!(bytes.is_empty());
        map.release();
    }
}
