//! A file mapped for writing. The only unsafe code of the job engine.

use std::fs::File;
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
}

/// Takes the pages of a finished part of a map out of the process's memory; the
/// page cache keeps them until they are on the disk. Advice: a failure costs memory.
pub fn release(part: &[u8]) {
    #[cfg(unix)]
    {
        use rustix::mm::{Advice, madvise};
        let page = rustix::param::page_size();
        let start = part.as_ptr() as usize;
        // Only whole pages inside the part: its neighbours may be in use.
        let first = start.next_multiple_of(page);
        let end = (start + part.len()) & !(page - 1);
        if first >= end {
            return;
        }
        let pages = part[first - start..].as_ptr().cast_mut();
        // SAFETY: the range lies in a shared mapping of a file that is borrowed here.
        // Dropping such pages writes nothing and loses nothing: they come back from
        // the page cache, as they were, on the next touch.
        let _ = unsafe { madvise(pages.cast(), end - first, Advice::LinuxDontNeed) };
    }
    #[cfg(not(unix))]
    let _ = part;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_bytes_are_still_there() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let mut map = OutputMap::new(&file, Path::new("x"), 1 << 20).unwrap();
        map.bytes_mut().fill(7);
        release(&map.bytes()[100..900_000]);
        assert!(map.bytes_mut().iter().all(|byte| *byte == 7));
        release(&[]);
    }

    #[test]
    fn empty_files_have_no_bytes() {
        let file = tempfile::tempfile().unwrap();
        let mut map = OutputMap::new(&file, Path::new("x"), 0).unwrap();
        assert!(map.bytes_mut().is_empty());
    }
}
