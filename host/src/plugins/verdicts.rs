//! What probing found out, kept between runs.
//!
//! One small file, `plugins.json` in the cache folder. A verdict holds as long as the
//! library has the same size and time of change and is asked by the same version of the
//! program. The file is never needed: a damaged one is made anew, and where it cannot be
//! written, libraries are probed more often.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use llm_quantize_plugin_api::INTERFACE_VERSION;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::source::read_small;

/// The folder for what can be made anew.
pub const CACHE_VARIABLE: &str = "LLM_QUANTIZE_CACHE";

/// No such file is longer.
const MAX_FILE: u64 = 4 << 20;

/// What probing a library said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Verdict {
    /// It can be used.
    Ok,
    /// It does not fit this program.
    Refused {
        /// Why; goes on after the library's path.
        reason: String,
    },
    /// Its code misbehaved.
    Quarantined {
        /// How; goes on after the library's path.
        reason: String,
    },
}

impl Verdict {
    /// One word, for tables and JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused { .. } => "refused",
            Self::Quarantined { .. } => "quarantined",
        }
    }

    /// Why it is not ok.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Ok => None,
            Self::Refused { reason } | Self::Quarantined { reason } => Some(reason),
        }
    }
}

/// Which library, as it was when it was probed, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    size: u64,
    mtime_ns: u64,
    program: String,
    interface: String,
}

impl Stamp {
    /// The stamp of a library now; `None` if it is gone.
    pub fn of(library: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(library).ok()?;
        let time = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok();
        let nanoseconds = time.and_then(|time| u64::try_from(time.as_nanos()).ok());
        Some(Self {
            size: metadata.len(),
            mtime_ns: nanoseconds.unwrap_or(0),
            program: env!("CARGO_PKG_VERSION").into(),
            interface: INTERFACE_VERSION.into(),
        })
    }
}

/// A verdict in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Id of the plugin.
    pub id: String,
    #[serde(flatten)]
    stamp: Stamp,
    /// What was found out.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Entries by the library's canonical path.
type Entries = BTreeMap<String, Entry>;

/// The file's content.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Document {
    plugins: Entries,
}

/// All verdicts that are known.
#[derive(Debug)]
pub struct Verdicts {
    file: Option<PathBuf>,
    entries: Mutex<Entries>,
}

impl Verdicts {
    /// The user's.
    pub fn open() -> Self {
        let given = std::env::var_os(CACHE_VARIABLE).filter(|folder| !folder.is_empty());
        let folder = given.map(PathBuf::from);
        let folder = folder.or_else(|| Some(dirs::cache_dir()?.join("llm-quantize")));
        Self::at(folder.map(|folder| folder.join("plugins.json")))
    }

    /// Those of a file; without one nothing is kept.
    pub fn at(file: Option<PathBuf>) -> Self {
        let entries = Mutex::new(file.as_deref().map(read).unwrap_or_default());
        Self { file, entries }
    }

    /// Where they are kept.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The verdict about a library, if it has not changed since.
    pub fn get(&self, library: &Path) -> Option<Verdict> {
        let entries = self.entries();
        let entry = entries.get(&key(library))?;
        (Stamp::of(library).as_ref() == Some(&entry.stamp)).then(|| entry.verdict.clone())
    }

    /// Keeps a verdict about a library that was like `stamp` before it was probed. If
    /// the file cannot be written, it is kept for this run.
    pub fn put(&self, library: &Path, stamp: Stamp, id: &str, verdict: Verdict) {
        let id = id.to_owned();
        let entry = Entry { id, stamp, verdict };
        let mut entries = self.entries();
        if let Some(file) = &self.file {
            // Another run may have added some.
            let mut all = read(file);
            all.insert(key(library), entry.clone());
            all.retain(|path, _| Path::new(path).exists());
            // A cache that cannot be written only costs time.
            let _ = write(file, &all);
        }
        entries.insert(key(library), entry);
    }

    /// Forgets some verdicts, and returns them with their paths.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn forget(&self, which: impl Fn(&Path, &Entry) -> bool) -> Result<Vec<(PathBuf, Entry)>> {
        let mut entries = self.entries();
        let gone: Vec<(PathBuf, Entry)> = entries
            .extract_if(.., |path, entry| which(Path::new(path), entry))
            .map(|(path, entry)| (PathBuf::from(path), entry))
            .collect();
        if let (Some(file), false) = (&self.file, gone.is_empty()) {
            write(file, &entries).map_err(|error| Error::io("write", file, error))?;
        }
        Ok(gone)
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(library: &Path) -> String {
    library.to_string_lossy().into_owned()
}

/// What is missing or damaged is empty.
fn read(file: &Path) -> Entries {
    let bytes = read_small(file, MAX_FILE).unwrap_or_default();
    let document: Document = serde_json::from_slice(&bytes).unwrap_or_default();
    document.plugins
}

/// Replaces the file as a whole: another run sees the old one or the new one.
fn write(file: &Path, entries: &Entries) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    let plugins = entries.clone();
    serde_json::to_writer_pretty(&mut new, &Document { plugins })?;
    new.flush()?;
    new.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::{Duration, SystemTime};

    struct Fixture {
        dir: tempfile::TempDir,
        library: PathBuf,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let library = dir.path().join("x.so");
            fs::write(&library, "library").unwrap();
            Self { dir, library }
        }

        fn file(&self) -> PathBuf {
            self.dir.path().join("cache/plugins.json")
        }

        fn open(&self) -> Verdicts {
            Verdicts::at(Some(self.file()))
        }

        fn put(&self, verdicts: &Verdicts, verdict: Verdict) {
            let stamp = Stamp::of(&self.library).unwrap();
            verdicts.put(&self.library, stamp, "x", verdict);
        }
    }

    fn crashed() -> Verdict {
        Verdict::Quarantined {
            reason: "crashed".into(),
        }
    }

    #[test]
    fn a_verdict_outlives_the_run() {
        let fixture = Fixture::new();
        assert_eq!(fixture.open().get(&fixture.library), None);
        fixture.put(&fixture.open(), crashed());
        assert_eq!(fixture.open().get(&fixture.library), Some(crashed()));
        let names = fs::read_dir(fixture.file().parent().unwrap()).unwrap();
        assert_eq!(names.count(), 1, "nothing temporary is left");
    }

    #[test]
    fn it_ends_when_the_library_changes() {
        let fixture = Fixture::new();
        fixture.put(&fixture.open(), crashed());
        let library = fs::File::options().write(true).open(&fixture.library);
        let later = SystemTime::now() + Duration::from_nanos(1_000_000_007);
        library.unwrap().set_modified(later).unwrap();
        assert_eq!(fixture.open().get(&fixture.library), None);
        fixture.put(&fixture.open(), Verdict::Ok);
        fs::write(&fixture.library, "another").unwrap();
        assert_eq!(fixture.open().get(&fixture.library), None);
    }

    #[test]
    fn another_version_asks_again() {
        let fixture = Fixture::new();
        fixture.put(&fixture.open(), Verdict::Ok);
        let text = fs::read_to_string(fixture.file()).unwrap();
        let own = format!("\"program\": \"{}\"", env!("CARGO_PKG_VERSION"));
        assert!(text.contains(&own), "{text}");
        fs::write(fixture.file(), text.replace(&own, "\"program\": \"0.0.0\"")).unwrap();
        assert_eq!(fixture.open().get(&fixture.library), None);
    }

    #[test]
    fn runs_side_by_side_keep_each_others_verdicts() {
        let fixture = Fixture::new();
        let (one, two) = (fixture.open(), fixture.open());
        let other = fixture.dir.path().join("y.so");
        fs::write(&other, "other").unwrap();
        two.put(&other, Stamp::of(&other).unwrap(), "y", Verdict::Ok);
        fixture.put(&one, crashed());
        assert_eq!(fixture.open().get(&other), Some(Verdict::Ok));
        fs::remove_file(&other).unwrap();
        fixture.put(&one, crashed());
        let text = fs::read_to_string(fixture.file()).unwrap();
        assert!(!text.contains("y.so"), "files that are gone are forgotten");
    }

    #[test]
    fn a_damaged_file_is_made_anew() {
        let fixture = Fixture::new();
        fixture.put(&fixture.open(), Verdict::Ok);
        for damage in ["", "{", "[]", r#"{"plugins": {"x": 1}}"#] {
            fs::write(fixture.file(), damage).unwrap();
            assert_eq!(fixture.open().get(&fixture.library), None);
        }
        fixture.put(&fixture.open(), Verdict::Ok);
        assert_eq!(fixture.open().get(&fixture.library), Some(Verdict::Ok));
    }

    #[test]
    fn without_a_place_verdicts_last_for_the_run() {
        let fixture = Fixture::new();
        // A file where the folder should be: nobody can write there, not even root.
        let blocked = Verdicts::at(Some(fixture.library.join("plugins.json")));
        for verdicts in [blocked, Verdicts::at(None)] {
            fixture.put(&verdicts, crashed());
            assert_eq!(verdicts.get(&fixture.library), Some(crashed()));
        }
    }

    #[test]
    fn verdicts_can_be_forgotten() {
        let fixture = Fixture::new();
        fixture.put(&fixture.open(), crashed());
        let verdicts = fixture.open();
        assert!(
            verdicts
                .forget(|_, entry| entry.id == "y")
                .unwrap()
                .is_empty()
        );
        let gone = verdicts.forget(|path, _| path == fixture.library).unwrap();
        assert_eq!(gone.len(), 1);
        assert_eq!(gone[0].1.verdict, crashed());
        assert_eq!(fixture.open().get(&fixture.library), None);
    }
}
