//! The journal of a job: which pieces of the staged files are on the disk.
//!
//! The staged files are their own checkpoint; the journal is a small file of JSON
//! lines beside them. Its first line, the [`Header`], says what is being built, from
//! what and by whom; each further line is a finished piece with a checksum of its
//! bytes. A piece is recorded after its bytes are durable ([`writer`]), and taken over
//! by a later run if they are still there ([`resume`]).

mod fingerprint;
mod header;
mod record;
mod resume;
mod storage;
mod writer;

use std::path::{Path, PathBuf};

pub use fingerprint::FileMark;
pub use header::{Header, PluginId, Subject};
pub use record::Record;
pub use resume::{Found, Taken, checksum, read, take_over};
pub use storage::{FileStorage, cannot_create};
pub use writer::{Durable, Finished, Journal};

use super::staging::Destination;
use crate::error::{Error, ExitCode, Result};

/// Folder for journals in an output folder.
const FOLDER: &str = ".checkpoint";
/// Ending of a journal's name.
const EXTENSION: &str = "journal";

/// What the user wants of checkpoints.
#[derive(Debug, Clone, Default)]
pub struct Checkpoints {
    /// None is kept, and what an earlier run left is not used.
    pub off: bool,
    /// Their folder; by default `.checkpoint` in the output folder.
    pub folder: Option<PathBuf>,
    /// This checkpoint must be continued: a journal, or a folder with exactly one.
    pub resume: Option<PathBuf>,
}

/// Where the journal of an output lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// It lies in the output folder's own [`FOLDER`], which is removed when empty.
    pub own_folder: bool,
    /// The user named it, so it must be there.
    pub named: bool,
}

impl Place {
    /// Where the journal of an output lies or will lie.
    ///
    /// # Errors
    /// If a named checkpoint does not exist, or a named folder has none or several.
    pub fn of(wanted: &Checkpoints, destination: &Destination) -> Result<Self> {
        let own = destination.folder.join(FOLDER);
        let path = match (&wanted.resume, &wanted.folder) {
            (Some(named), _) => find_named(named)?,
            (None, folder) => {
                let folder = folder.as_ref().unwrap_or(&own);
                folder.join(format!("{}.{EXTENSION}", destination.name()))
            }
        };
        let folder = path.parent().unwrap_or(Path::new("."));
        let same = || Some(folder.canonicalize().ok()? == own.canonicalize().ok()?);
        Ok(Self {
            own_folder: folder == own || same() == Some(true),
            named: wanted.resume.is_some(),
            path,
        })
    }

    /// The folder that it lies in.
    pub fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    /// A folder beside the journal for what a calibration run keeps.
    pub fn calibration(&self) -> PathBuf {
        self.path.with_extension("calibration")
    }

    /// Removes the journal and what belongs to it, and its folder if that is ours and empty.
    ///
    /// # Errors
    /// If there is a journal and it cannot be removed.
    pub fn remove(&self) -> Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if !is_absent(&error) => {
                let error = Error::io("remove the checkpoint", &self.path, error);
                return Err(error.class(ExitCode::Checkpoint));
            }
            _ => {}
        }
        drop(std::fs::remove_dir_all(self.calibration()));
        if self.own_folder {
            // It may hold the journals of other outputs.
            drop(std::fs::remove_dir(self.folder()));
        }
        Ok(())
    }
}

fn find_named(named: &Path) -> Result<PathBuf> {
    let refuse = |what: String| {
        Error::new(ExitCode::Checkpoint, what)
            .suggest("name a journal, or leave out --resume: the same command finds its own")
    };
    let path = named.display();
    if named.is_file() {
        return Ok(named.to_owned());
    }
    let Ok(entries) = std::fs::read_dir(named) else {
        return Err(refuse(format!("there is no checkpoint {path}")));
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == EXTENSION))
        .collect();
    found.sort();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(refuse(format!("the folder {path} holds no checkpoint"))),
        [first, ..] => Err(refuse(format!(
            "the folder {path} holds {} checkpoints, the first is {}",
            found.len(),
            first.display()
        ))),
    }
}

/// There is no file of that name, nor could there be one.
fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

/// An error about a journal, with what can always be done.
fn refused(path: &Path, what: &str) -> Error {
    let path = path.display();
    Error::new(
        ExitCode::Checkpoint,
        format!("the checkpoint {path} {what}"),
    )
    .suggest(format!(
        "give the original model and options to go on, or start from the beginning: delete \
         {path}, or use --no-checkpoints"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn destination(folder: &Path) -> Destination {
        Destination {
            folder: folder.to_owned(),
            targets: vec![folder.join("m.gguf")],
        }
    }

    #[test]
    fn journals_lie_in_the_output_folder_or_where_the_user_wants() {
        let dir = tempfile::tempdir().unwrap();
        let to = destination(dir.path());
        let own = Place::of(&Checkpoints::default(), &to).unwrap();
        assert_eq!(own.path, dir.path().join(".checkpoint/m.gguf.journal"));
        assert!(own.own_folder && !own.named);
        let wanted = Checkpoints {
            folder: Some("/elsewhere".into()),
            ..Checkpoints::default()
        };
        let other = Place::of(&wanted, &to).unwrap();
        assert_eq!(other.path, Path::new("/elsewhere/m.gguf.journal"));
        assert!(!other.own_folder);
    }

    #[test]
    fn a_named_folder_must_hold_exactly_one() {
        let dir = tempfile::tempdir().unwrap();
        let to = destination(dir.path());
        let folder = dir.path().join(".checkpoint");
        let named = |path: &Path| Checkpoints {
            resume: Some(path.to_owned()),
            ..Checkpoints::default()
        };
        let refusal = |wanted: &Checkpoints| Place::of(wanted, &to).unwrap_err();
        let error = refusal(&named(&folder));
        assert_eq!(error.class, ExitCode::Checkpoint);
        fs::create_dir(&folder).unwrap();
        assert!(refusal(&named(&folder)).message.contains("no checkpoint"));
        fs::write(folder.join("a.journal"), "").unwrap();
        let found = Place::of(&named(&folder), &to).unwrap();
        assert_eq!(found.path, folder.join("a.journal"));
        assert!(found.own_folder && found.named);
        fs::write(folder.join("b.journal"), "").unwrap();
        assert!(refusal(&named(&folder)).message.contains("2 checkpoints"));
        let file = Place::of(&named(&folder.join("b.journal")), &to).unwrap();
        assert_eq!(file.path, folder.join("b.journal"));
        file.remove().unwrap();
        assert!(folder.exists());
        found.remove().unwrap();
        assert!(!folder.exists());
    }
}
