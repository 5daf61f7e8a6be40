//! Whether a library's code may be run at all: who could have put it there?
//!
//! The rule: only root, the user, or whoever owns the program itself may have had a hand
//! in the file. So the file, its folder and every folder above must belong to one of
//! them, and nobody else may write to them. Folders above are excused if they are sticky
//! (as `/tmp` is: others cannot rename what is not theirs), or if the program itself lies
//! in them (who controls those, controls the program already).
//!
//! On systems without Unix permissions every library passes.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a library is not trusted. The sentences go on after the library's path.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// A folder, a device or the like.
    #[error("is not a regular file")]
    NotAFile,
    /// The system would not tell.
    #[error("cannot be checked: {0}")]
    Unreadable(String),
    /// Somebody else's.
    #[error(
        "{place} belongs to user {owner}, who is neither root nor you (user {me}); if you trust it, run `chown {me} {quoted}`",
        quoted = quoted(.place.path())
    )]
    Owner {
        /// Whose owner it is.
        place: Place,
        /// The owner's number.
        owner: u32,
        /// The number of the user who runs the program.
        me: u32,
    },
    /// Everybody may change it.
    #[error(
        "{place} can be written to by everyone (mode {mode:04o}); run `chmod o-w {quoted}`",
        quoted = quoted(.place.path())
    )]
    Others {
        /// What can be written to.
        place: Place,
        /// Its permissions.
        mode: u32,
    },
    /// A group of several users may change it.
    #[error(
        "{place} can be written to by group {group} (mode {mode:04o}); run `chmod g-w {quoted}`",
        quoted = quoted(.place.path())
    )]
    Group {
        /// What can be written to.
        place: Place,
        /// Its permissions.
        mode: u32,
        /// The group's number.
        group: u32,
    },
}

/// The library, or a folder on the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The library itself.
    File(PathBuf),
    /// The folder that it lies in.
    Folder(PathBuf),
    /// A folder further up.
    Above(PathBuf),
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Folder(path) | Self::Above(path) => path,
        }
    }
}

impl std::fmt::Display for Place {
    /// Begins the sentence of a refusal.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(_) => f.write_str("is not trusted: the file"),
            Self::Folder(path) => write!(f, "is not trusted: its folder {}", path.display()),
            Self::Above(path) => write!(f, "is not trusted: {}, above it,", path.display()),
        }
    }
}

/// A path as a word for the shell.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=,@:".contains(c);
    match text.chars().all(plain) {
        true => text.into_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Who asks: what counts as trusted for this run.
#[derive(Debug, Clone, Default)]
pub struct Asker {
    user: u32,
    /// Owner of the program's own file.
    program_owner: Option<u32>,
    /// Folders that the program lies in.
    program_folders: Vec<PathBuf>,
}

#[cfg(unix)]
mod unix {
    use std::fs::{self, Metadata};
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::{Asker, Place, Refusal};

    const STICKY: u32 = 0o1000;
    const GROUP_WRITES: u32 = 0o020;
    const OTHERS_WRITE: u32 = 0o002;

    impl Asker {
        /// The process's user and program.
        pub fn this_process() -> Self {
            let program = std::env::current_exe().and_then(|path| path.canonicalize());
            let program = program.ok();
            let owner = |path: &std::path::PathBuf| Some(fs::metadata(path).ok()?.uid());
            Self {
                user: rustix::process::geteuid().as_raw(),
                program_owner: program.as_ref().and_then(owner),
                program_folders: program
                    .iter()
                    .flat_map(|path| path.ancestors().skip(1))
                    .map(Path::to_owned)
                    .collect(),
            }
        }

        /// Checks a library, its folder and all folders above. `library` must be
        /// canonical: what a link points to is what is loaded.
        ///
        /// # Errors
        /// The first thing that is wrong.
        pub fn check(&self, library: &Path) -> Result<(), Refusal> {
            let file = facts(library)?;
            if !file.is_file() {
                return Err(Refusal::NotAFile);
            }
            self.judge(Place::File(library.to_owned()), Facts::of(&file))?;
            for (depth, folder) in library.ancestors().skip(1).enumerate() {
                let place = match depth {
                    0 => Place::Folder(folder.to_owned()),
                    _ if self.program_folders.iter().any(|own| own == folder) => continue,
                    _ => Place::Above(folder.to_owned()),
                };
                self.judge(place, Facts::of(&facts(folder)?))?;
            }
            Ok(())
        }

        pub(super) fn judge(&self, place: Place, facts: Facts) -> Result<(), Refusal> {
            let Facts { owner, group, mode } = facts;
            let trusted = owner == 0 || owner == self.user || Some(owner) == self.program_owner;
            if !trusted {
                let me = self.user;
                return Err(Refusal::Owner { place, owner, me });
            }
            if matches!(place, Place::Above(_)) && mode & STICKY != 0 {
                return Ok(());
            }
            if mode & OTHERS_WRITE != 0 {
                return Err(Refusal::Others { place, mode });
            }
            // Many systems give each user a group of the same number, with nobody
            // else in it.
            let private = group == 0 || group == self.user;
            if mode & GROUP_WRITES != 0 && !private {
                return Err(Refusal::Group { place, mode, group });
            }
            Ok(())
        }
    }

    fn facts(path: &Path) -> Result<Metadata, Refusal> {
        fs::symlink_metadata(path)
            .map_err(|error| Refusal::Unreadable(format!("{}: {error}", path.display())))
    }

    /// What the system says about a file or folder.
    #[derive(Debug, Clone, Copy)]
    pub struct Facts {
        /// The owner's number.
        pub owner: u32,
        /// The group's number.
        pub group: u32,
        /// Permissions, with the sticky bit.
        pub mode: u32,
    }

    impl Facts {
        fn of(metadata: &Metadata) -> Self {
            Self {
                owner: metadata.uid(),
                group: metadata.gid(),
                mode: metadata.mode() & 0o7777,
            }
        }
    }

    /// Owner and permissions of a file, for people: `user 0, mode 0644`.
    pub fn describe(path: &Path) -> Option<String> {
        let facts = Facts::of(&fs::metadata(path).ok()?);
        Some(format!("user {}, mode {:04o}", facts.owner, facts.mode))
    }
}

#[cfg(unix)]
pub use unix::describe;

#[cfg(not(unix))]
impl Asker {
    /// The process's user and program.
    pub fn this_process() -> Self {
        Self::default()
    }

    /// Without Unix permissions there is nothing to check.
    ///
    /// # Errors
    /// Never.
    pub fn check(&self, _library: &Path) -> Result<(), Refusal> {
        Ok(())
    }
}

/// Owner and permissions of a file, where there are such.
#[cfg(not(unix))]
pub fn describe(_path: &Path) -> Option<String> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::unix::Facts;
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    const ME: u32 = 1000;

    fn judge(place: Place, owner: u32, group: u32, mode: u32) -> Result<(), Refusal> {
        let asker = Asker {
            user: ME,
            program_owner: Some(77),
            program_folders: Vec::new(),
        };
        asker.judge(place, Facts { owner, group, mode })
    }

    fn file() -> Place {
        Place::File("/p/x.so".into())
    }

    #[test]
    fn root_the_user_and_the_programs_owner_are_trusted() {
        for owner in [0, ME, 77] {
            assert_eq!(judge(file(), owner, 5, 0o755), Ok(()));
        }
        let refused = judge(file(), 65534, 5, 0o755).unwrap_err().to_string();
        assert!(
            refused.contains("65534") && refused.contains("chown 1000 /p/x.so"),
            "{refused}"
        );
    }

    #[test]
    fn what_others_may_write_to_is_refused_with_the_remedy() {
        let refused = judge(file(), 0, 0, 0o646).unwrap_err().to_string();
        assert!(refused.contains("0646") && refused.contains("chmod o-w /p/x.so"));
        let folder = Place::Folder("/it's".into());
        // A sticky bit keeps others from replacing files, not from adding libraries.
        let refused = judge(folder, 0, 0, 0o1777).unwrap_err().to_string();
        assert!(refused.contains(r"chmod o-w '/it'\''s'"), "{refused}");
        assert_eq!(judge(Place::Above("/tmp".into()), 0, 0, 0o1777), Ok(()));
        assert!(judge(Place::Above("/open".into()), 0, 0, 0o777).is_err());
    }

    #[test]
    fn groups_may_write_if_they_are_private() {
        assert_eq!(judge(file(), ME, ME, 0o664), Ok(()));
        assert_eq!(judge(file(), 0, 0, 0o664), Ok(()));
        let refused = judge(file(), ME, 100, 0o664).unwrap_err().to_string();
        assert!(refused.contains("group 100") && refused.contains("chmod g-w"));
    }

    #[test]
    fn real_files_and_their_folders_are_checked() {
        let asker = Asker {
            program_folders: Vec::new(),
            ..Asker::this_process()
        };
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().canonicalize().unwrap().join("inner");
        fs::create_dir(&inner).unwrap();
        let library = inner.join("x.so");
        fs::write(&library, "x").unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
        let (above, loose) = (inner.parent().unwrap(), 0o777);
        for (path, usual) in [(&*library, 0o644), (&*inner, 0o755), (above, 0o700)] {
            set(&inner, 0o755).unwrap();
            set(&library, 0o644).unwrap();
            assert_eq!(asker.check(&library), Ok(()));
            set(path, loose).unwrap();
            let refused = asker.check(&library).unwrap_err();
            assert!(matches!(refused, Refusal::Others { .. }), "{refused}");
            assert!(refused.to_string().contains(&*path.to_string_lossy()));
            set(path, usual).unwrap();
        }
        assert_eq!(asker.check(&inner), Err(Refusal::NotAFile));
        assert!(matches!(
            asker.check(&inner.join("missing")),
            Err(Refusal::Unreadable(_))
        ));
        // The folders that the program lies in are not asked about, its own is.
        set(above, loose).unwrap();
        let inside = Asker {
            program_folders: vec![above.to_owned(), inner.clone()],
            ..asker
        };
        assert_eq!(inside.check(&library), Ok(()));
        set(&inner, loose).unwrap();
        assert!(inside.check(&library).is_err());
    }
}
