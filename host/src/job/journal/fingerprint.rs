//! What files and plans are recognised by.

use std::path::Path;
use std::time::UNIX_EPOCH;

use llm_quantize_plugin_api::Job;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::output::hex;
use crate::source::MappedFile;

/// So much of a file of weights is hashed: its header, or the beginning of it. The
/// weights themselves are told apart by size and time, as reading them all would take
/// as long as the work.
const HEADER_BYTES: usize = 256 << 10;

/// A file of the source as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMark {
    /// Its name in the model's folder, or what it was attached as.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// Nanoseconds from 1970 to its last change; `None` where all of it is hashed.
    pub modified: Option<u64>,
    /// SHA-256 of all of it, or of its beginning.
    pub hash: String,
}

impl FileMark {
    /// Of a large file: size, time, and a hash of the header.
    pub fn by_time(file: &MappedFile) -> Result<Self> {
        let bytes = file.bytes();
        let mut mark = Self::of(file, file.name(), &bytes[..bytes.len().min(HEADER_BYTES)]);
        mark.modified = Some(modified(file.path())?);
        Ok(mark)
    }

    /// Of a small file: its whole content, whenever it was written.
    pub fn by_content(file: &MappedFile, name: &str) -> Self {
        Self::of(file, name, file.bytes())
    }

    fn of(file: &MappedFile, name: &str, hashed: &[u8]) -> Self {
        Self {
            name: name.to_owned(),
            size: file.len(),
            modified: None,
            hash: hex(&Sha256::digest(hashed)),
        }
    }

    /// What is not as it was, for people; `None` if nothing is.
    pub fn difference(&self, now: &Self) -> Option<String> {
        let name = &self.name;
        if self.size != now.size {
            let (was, is) = (self.size, now.size);
            return Some(format!("{name} changed: it had {was} bytes, now {is}"));
        }
        (self != now).then(|| format!("{name} was modified"))
    }
}

/// What is not as it was among several files.
pub fn differences(was: &[FileMark], now: &[FileMark]) -> Vec<String> {
    let find = |marks: &[FileMark], name: &str| marks.iter().position(|mark| mark.name == name);
    let mut found: Vec<String> = was
        .iter()
        .filter_map(|mark| match find(now, &mark.name) {
            Some(place) => mark.difference(&now[place]),
            None => Some(format!("{} is missing", mark.name)),
        })
        .collect();
    let new = now.iter().filter(|mark| find(was, &mark.name).is_none());
    found.extend(new.map(|mark| format!("{} was not there", mark.name)));
    found
}

/// SHA-256 of a plan and of the bytes that its plugin has ready.
pub fn plan_hash(job: &dyn Job) -> Result<String> {
    let plan = serde_json::to_vec(job.plan())
        .map_err(|error| Error::other(format!("cannot write the plan as JSON: {error}")))?;
    let mut hash = Sha256::new_with_prefix(&plan);
    for literal in &job.plan().literals {
        hash.update(job.blob(literal.blob));
    }
    Ok(hex(&hash.finalize()))
}

fn modified(path: &Path) -> Result<u64> {
    let time = std::fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .map_err(|error| Error::io("read the time of", path, error))?;
    // Before 1970 and after 2554 all times are alike; size and header remain.
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::{Duration, SystemTime};

    #[test]
    fn changes_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let open = || FileMark::by_time(&MappedFile::open(&path).unwrap()).unwrap();
        std::fs::write(&path, vec![1; 300_000]).unwrap();
        let was = open();
        assert_eq!(was.difference(&open()), None);
        let set = |seconds| {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(time)
                .unwrap();
        };
        set(1_000_000);
        assert_eq!(
            was.difference(&open()).unwrap(),
            "w.safetensors was modified"
        );
        std::fs::write(&path, vec![1; 300_001]).unwrap();
        assert_eq!(
            was.difference(&open()).unwrap(),
            "w.safetensors changed: it had 300000 bytes, now 300001"
        );
        std::fs::write(&path, vec![2; 300_000]).unwrap();
        let header = open();
        set(1_000_000);
        assert_ne!(header.hash, was.hash);
        // Small files are known by what they say, whenever they were written.
        let mark = || FileMark::by_content(&MappedFile::open(&path).unwrap(), "m");
        let first = mark();
        set(2_000_000);
        assert_eq!(first.difference(&mark()), None);
    }

    #[test]
    fn missing_and_new_files_are_named() {
        let mark = |name: &str| FileMark {
            name: name.into(),
            size: 1,
            modified: None,
            hash: String::new(),
        };
        let found = differences(&[mark("a"), mark("b")], &[mark("b"), mark("c")]);
        assert_eq!(found, ["a is missing", "c was not there"]);
    }
}
