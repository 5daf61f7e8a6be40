//! Bounds-checked little-endian reading, with the byte offset in every failure.

use super::read::ReadError;

/// A position in the bytes of a file.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes from the start of the file to here.
    pub(super) fn offset(&self) -> u64 {
        self.at as u64
    }

    /// Bytes from here to the end of the file.
    pub(super) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// The next `len` bytes; `what` names them if the file ends before.
    pub(super) fn take(&mut self, len: u64, what: &'static str) -> Result<&'a [u8], ReadError> {
        let truncated = ReadError::Truncated {
            what,
            offset: self.offset(),
            needed: len,
            available: self.remaining(),
        };
        let Some(end) = usize::try_from(len)
            .ok()
            .and_then(|n| self.at.checked_add(n))
        else {
            return Err(truncated);
        };
        let taken = self.bytes.get(self.at..end).ok_or(truncated)?;
        self.at = end;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], ReadError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, ReadError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, ReadError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// The bytes of a string: its length as u64, then as many bytes.
    pub(super) fn string(&mut self, what: &'static str) -> Result<&'a [u8], ReadError> {
        let len = self.u64(what)?;
        self.take(len, what)
    }
}
