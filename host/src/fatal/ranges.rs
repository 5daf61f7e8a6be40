//! Which file an address belongs to.
//!
//! A list that only grows and whose entries are reused, so that a signal handler can
//! walk it at any moment without a lock.

use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::last_words::shown;

/// What a file was mapped for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be read: it is part of an input.
    Input,
    /// To be written: it is part of an output.
    Output,
}

/// An entry of the list. `start..end` is empty while the entry is free.
#[derive(Debug, Default)]
struct Entry {
    start: AtomicUsize,
    end: AtomicUsize,
    file: AtomicPtr<File>,
    next: AtomicPtr<Entry>,
}

#[derive(Debug)]
pub(super) struct File {
    pub(super) path: String,
    pub(super) purpose: Purpose,
}

static FIRST: AtomicPtr<Entry> = AtomicPtr::new(ptr::null_mut());
/// Held by those who change the list.
static CHANGE: Mutex<()> = Mutex::new(());

/// A mapping that is known by its file until this is dropped. Drop it before the
/// mapping itself.
#[derive(Debug)]
pub struct MappedRange(&'static Entry);

impl MappedRange {
    /// Makes the bytes of a mapping known.
    pub fn new(bytes: &[u8], path: &Path, purpose: Purpose) -> Self {
        let _change = CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
        // Never freed: a handler on another thread may be looking at it.
        let file = Box::leak(Box::new(File {
            path: shown(&path.to_string_lossy()),
            purpose,
        }));
        let free = entries().find(|entry| entry.end.load(Ordering::Relaxed) == 0);
        let entry = free.unwrap_or_else(append);
        let start = bytes.as_ptr() as usize;
        entry.file.store(file, Ordering::Relaxed);
        entry.start.store(start, Ordering::Relaxed);
        entry.end.store(start + bytes.len(), Ordering::Release);
        Self(entry)
    }
}

impl Drop for MappedRange {
    fn drop(&mut self) {
        let _change = CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.end.store(0, Ordering::Release);
    }
}

/// The file that is mapped at an address.
pub(super) fn file_at(address: usize) -> Option<&'static File> {
    let entry = entries().find(|entry| {
        let end = entry.end.load(Ordering::Acquire);
        (entry.start.load(Ordering::Relaxed)..end).contains(&address)
    })?;
    // SAFETY: set before `end` from a leaked box, which is never freed.
    unsafe { entry.file.load(Ordering::Relaxed).as_ref() }
}

fn entries() -> impl Iterator<Item = &'static Entry> {
    // SAFETY: entries come from leaked boxes and are never freed.
    let at = |entry: &AtomicPtr<Entry>| unsafe { entry.load(Ordering::Acquire).as_ref() };
    std::iter::successors(at(&FIRST), move |entry| at(&entry.next))
}

/// Puts a new entry in front; only called with `CHANGE` held.
fn append() -> &'static Entry {
    let entry: &'static mut Entry = Box::leak(Box::default());
    *entry.next.get_mut() = FIRST.load(Ordering::Relaxed);
    let entry: *mut Entry = entry;
    FIRST.store(entry, Ordering::Release);
    // SAFETY: just made from a leaked box; from here on it is only shared.
    unsafe { &*entry }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_to_their_file_while_it_is_mapped() {
        let (a, b) = (vec![0u8; 100], vec![0u8; 50]);
        let path = |bytes: &[u8], at: usize| {
            file_at(bytes.as_ptr() as usize + at).map(|file| file.path.clone())
        };
        let first = MappedRange::new(&a, Path::new("/a"), Purpose::Input);
        let second = MappedRange::new(&b, Path::new("/b"), Purpose::Output);
        assert_eq!(path(&a, 99).as_deref(), Some("/a"));
        assert_eq!(path(&b, 0).as_deref(), Some("/b"));
        assert_ne!(path(&a, 100).as_deref(), Some("/a"));
        drop(first);
        assert_ne!(path(&a, 0).as_deref(), Some("/a"));
        let third = MappedRange::new(&a, Path::new("/c"), Purpose::Input);
        assert_eq!(path(&a, 0).as_deref(), Some("/c"));
        drop((second, third));
    }
}
