//! The older layout, without a magic number. All numbers are little-endian i32 or f32:
//!
//! ```text
//! number of entries, then for each:
//!     length of the name, name, number of calls, number of values, values
//! optionally: number of chunks, then optionally: length of the dataset's name, name
//! ```
//!
//! The values are means of squared inputs multiplied by the number of calls.

use super::{Entry, Imatrix, ImatrixError, Layout};
use crate::container::Text;
use indexmap::IndexMap;

/// What is left of the file.
struct Rest<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], ImatrixError> {
        let rest = self.file.get(self.at..).unwrap_or_default();
        let taken = rest.get(..len).ok_or(ImatrixError::Truncated {
            what,
            offset: self.at,
            needed: len,
            available: rest.len(),
        })?;
        self.at += len;
        Ok(taken)
    }

    fn i32(&mut self, what: &'static str) -> Result<i32, ImatrixError> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4, what)?);
        Ok(i32::from_le_bytes(bytes))
    }

    /// A number that must be at least 1.
    fn count(&mut self, what: &'static str) -> Result<usize, ImatrixError> {
        let offset = self.at;
        let value = self.i32(what)?;
        match usize::try_from(value) {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(ImatrixError::Impossible {
                what,
                value,
                offset,
            }),
        }
    }

    fn is_empty(&self) -> bool {
        self.at >= self.file.len()
    }
}

pub(super) fn parse(file: &[u8]) -> Result<Imatrix, ImatrixError> {
    let mut rest = Rest { file, at: 0 };
    let count = rest.count("the number of entries")?;
    let mut entries = IndexMap::new();
    for _ in 0..count {
        let (name, entry) = entry(&mut rest)?;
        if entries.insert(name.clone(), entry).is_some() {
            return Err(ImatrixError::Duplicate { tensor: name });
        }
    }
    let mut chunk_count = 0;
    let mut datasets = Vec::new();
    // Oldest files end here, younger ones after the chunks.
    if !rest.is_empty() {
        chunk_count = u32::try_from(rest.i32("the number of chunks")?).unwrap_or(0);
    }
    if !rest.is_empty() {
        datasets.extend(dataset(&mut rest)?);
    }
    Ok(Imatrix {
        layout: Layout::Legacy,
        datasets,
        chunk_count,
        chunk_size: 0,
        entries,
    })
}

fn entry(rest: &mut Rest<'_>) -> Result<(String, Entry), ImatrixError> {
    let len = rest.count("the length of a tensor name")?;
    let offset = rest.at;
    let name = rest.take(len, "a tensor name")?;
    let name = std::str::from_utf8(name).map_err(|_| ImatrixError::NameNotText { offset })?;
    let calls = rest.i32("a number of calls")?;
    let count = rest.count("a number of values")?;
    let bytes = rest.take(count.saturating_mul(4), "the values of a tensor")?;
    let (values, _) = bytes.as_chunks::<4>();
    let mut weights: Vec<f32> = values.iter().map(|&v| f32::from_le_bytes(v)).collect();
    if calls > 0 {
        let calls = calls as f32;
        weights.iter_mut().for_each(|value| *value /= calls);
    }
    let entry = Entry {
        weights,
        experts: 1,
        unseen: 0,
    };
    Ok((name.to_owned(), entry))
}

/// The dataset's name; an empty one is none.
fn dataset(rest: &mut Rest<'_>) -> Result<Option<Text>, ImatrixError> {
    let offset = rest.at;
    let what = "the length of the dataset's name";
    let value = rest.i32(what)?;
    let Ok(len) = usize::try_from(value) else {
        return Err(ImatrixError::Impossible {
            what,
            value,
            offset,
        });
    };
    let name = rest.take(len, "the dataset's name")?;
    Ok((!name.is_empty()).then(|| Text::from(name)))
}
