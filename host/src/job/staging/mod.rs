//! The output while it is being built: files under temporary names, laid out at
//! their full size, mapped, and renamed when all is done.
//!
//! Whatever happens before [`Staging::publish`], nothing under the output's own name
//! changes. What is dropped before that is removed, unless it is
//! [kept](Staging::keep) for a later run.

mod destination;
mod publish;
mod reserve;

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use llm_quantize_plugin_api::{Container, FileContent, Plan, Span};

pub use destination::{Destination, file_name};
pub use publish::{half_published, remove, sync_folder, take_back};
pub use reserve::held;

use super::output_map::OutputMap;
use super::threads::CancelFlag;
use crate::error::{Error, ExitCode, Result};

/// What becomes of the files that an earlier run left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftovers {
    /// They are removed.
    Replace,
    /// Those of the right size are taken over.
    TakeOver,
}

/// An output that is being built.
#[derive(Debug)]
pub struct Staging {
    destination: Destination,
    /// No file is held open: a plan may have more files than a process may open.
    files: Vec<StagedFile>,
    stays: bool,
}

/// A file of the output under its temporary name.
#[derive(Debug, Clone)]
pub struct StagedFile {
    /// Where it lies.
    pub path: PathBuf,
    size: u64,
}

impl StagedFile {
    /// Makes its content durable, whoever wrote it, through a map or not.
    ///
    /// # Errors
    /// If the file is gone, or the disk reports a failure.
    pub fn sync(&self) -> Result<()> {
        let failed = |error| Error::io("write", &self.path, error);
        let file = File::open(&self.path).map_err(failed)?;
        file.sync_data().map_err(failed)
    }
}

impl Staging {
    /// Creates the files at their full size, with disk space reserved.
    ///
    /// # Errors
    /// If a file cannot be created, or the disk is too small ([`ExitCode::DiskSpace`]).
    pub fn create(
        destination: Destination,
        plan: &Plan,
        leftovers: Leftovers,
        cancel: &CancelFlag,
    ) -> Result<Self> {
        let temporary = destination.temporary();
        let mut staging = Self {
            destination,
            files: Vec::new(),
            // What is taken over must not be lost because something else fails.
            stays: leftovers == Leftovers::TakeOver,
        };
        if leftovers == Leftovers::Replace {
            temporary.iter().try_for_each(|path| remove(path))?;
        }
        if matches!(plan.container, Container::Folder(_)) {
            staging.folder(&temporary[0], plan)?;
        }
        for (index, planned) in plan.files.iter().enumerate() {
            let path = match &plan.container {
                Container::Folder(_) => temporary[0].join(&planned.name),
                Container::Files => temporary[index].clone(),
            };
            let found = fs::symlink_metadata(&path).ok();
            if found.is_some_and(|found| found.is_file() && found.len() == planned.size) {
                reserve::again(&path, planned.size)?;
            } else {
                remove(&path)?;
                reserve::create(&path, planned.size, cancel)?;
            }
            staging.files.push(StagedFile {
                path,
                size: planned.size,
            });
        }
        sync_folder(&staging.destination.folder);
        Ok(staging)
    }

    /// The folder for the files, with nothing in it that is not planned: it is
    /// published as a whole.
    fn folder(&self, folder: &Path, plan: &Plan) -> Result<()> {
        if !fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir()) {
            remove(folder)?;
            return fs::create_dir(folder).map_err(|error| Error::io("create", folder, error));
        }
        let entries = fs::read_dir(folder).map_err(|error| Error::io("read", folder, error))?;
        for entry in entries {
            let path = entry
                .map_err(|error| Error::io("read", folder, error))?
                .path();
            if !plan.files.iter().any(|file| file.name == file_name(&path)) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Maps all files for writing.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn map(&self) -> Result<Vec<OutputMap>> {
        self.files
            .iter()
            .map(|staged| {
                let failed = |error| Error::io("map", &staged.path, error);
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&staged.path)
                    .map_err(failed)?;
                OutputMap::new(&file, &staged.path, staged.size).map_err(failed)
            })
            .collect()
    }

    /// Writes the content of all side files.
    ///
    /// # Errors
    /// If `read` has no such file, it has another length than planned, or writing fails.
    pub fn copy_side_files<'a>(
        &self,
        plan: &Plan,
        read: impl Fn(&str) -> Result<&'a [u8]>,
    ) -> Result<()> {
        use std::io::Write;
        for (planned, staged) in plan.files.iter().zip(&self.files) {
            let FileContent::CopyOf(source) = &planned.content else {
                continue;
            };
            let bytes = read(source)?;
            if bytes.len() as u64 != planned.size {
                return Err(Error::validation(format!(
                    "\"{source}\" has {} bytes, the plan says {}: it changed meanwhile",
                    bytes.len(),
                    planned.size
                )));
            }
            OpenOptions::new()
                .write(true)
                .open(&staged.path)
                .and_then(|mut file| file.write_all(bytes))
                .map_err(|error| Error::io("write", &staged.path, error))?;
        }
        Ok(())
    }

    /// The files as they lie on the disk, in the plan's order.
    pub fn files(&self) -> &[StagedFile] {
        &self.files
    }

    /// Makes everything durable: a power cut after this loses nothing.
    ///
    /// # Errors
    /// If the disk reports a failure.
    pub fn sync(&self) -> Result<()> {
        self.files.iter().try_for_each(StagedFile::sync)?;
        if let Some(folder) = self.files.first().and_then(|staged| staged.path.parent()) {
            sync_folder(folder);
        }
        Ok(())
    }

    /// Whether the files stay when this is dropped: they hold work that a later run
    /// can take over.
    pub fn keep(&mut self, keep: bool) {
        self.stays = keep;
    }

    /// Gives the output its own name.
    ///
    /// # Errors
    /// If a rename fails; what was there before stays.
    pub fn publish(&mut self) -> Result<PathBuf> {
        publish::publish(&self.destination)?;
        self.stays = true;
        Ok(self.destination.main().to_owned())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        for path in self.destination.temporary() {
            // There is no one left to tell; a leftover is removed by the next run.
            drop(remove(&path));
        }
    }
}

/// Checks that a span lies inside the file it names; plans are checked before, so
/// this is the last fence before a slice.
pub fn span_range(span: &Span) -> Result<std::ops::Range<usize>> {
    let end = span.offset.checked_add(span.len);
    match (usize::try_from(span.offset), end.map(usize::try_from)) {
        (Ok(start), Some(Ok(end))) => Ok(start..end),
        _ => Err(Error::new(
            ExitCode::OutOfMemory,
            "a file of the output is too large for this machine's address space",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_quantize_plugin_api::OutputFile;

    fn plan(container: Container, files: &[(&str, u64)]) -> Plan {
        Plan {
            container,
            files: files
                .iter()
                .map(|(name, size)| OutputFile {
                    name: (*name).into(),
                    size: *size,
                    content: FileContent::Built,
                })
                .collect(),
            ..Plan::default()
        }
    }

    fn create(folder: &Path, plan: &Plan, leftovers: Leftovers) -> Staging {
        let destination = Destination::new(folder, plan);
        Staging::create(destination, plan, leftovers, &CancelFlag::default()).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_shows_before_publish_and_nothing_is_left_after_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(Container::Files, &[("a.bin", 10), ("b.bin", 0)]);
        let staging = create(dir.path(), &plan, Leftovers::Replace);
        assert_eq!(names(dir.path()), [".a.bin.partial", ".b.bin.partial"]);
        drop(staging);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn leftovers_are_replaced_and_files_published_at_full_size() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".a.bin.partial"), "old").unwrap();
        fs::write(dir.path().join("a.bin"), "previous").unwrap();
        let plan = plan(Container::Files, &[("a.bin", 10)]);
        let mut staging = create(dir.path(), &plan, Leftovers::Replace);
        let path = staging.publish().unwrap();
        assert_eq!(fs::read(path).unwrap(), [0; 10]);
        assert_eq!(names(dir.path()), ["a.bin"]);
    }

    #[test]
    fn a_folder_replaces_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("model")).unwrap();
        fs::write(dir.path().join("model/stale"), "").unwrap();
        let plan = plan(Container::Folder("model".into()), &[("x", 3)]);
        let mut staging = create(dir.path(), &plan, Leftovers::Replace);
        let path = staging.publish().unwrap();
        assert_eq!(names(dir.path()), ["model"]);
        assert_eq!(names(&path), ["x"]);
    }

    #[test]
    fn side_files_must_have_the_planned_length() {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = plan(Container::Files, &[("t.json", 2)]);
        plan.files[0].content = FileContent::CopyOf("tokenizer.json".into());
        let mut staging = create(dir.path(), &plan, Leftovers::Replace);
        assert!(staging.copy_side_files(&plan, |_| Ok(b"abc")).is_err());
        staging.copy_side_files(&plan, |_| Ok(b"ab")).unwrap();
        let path = staging.publish().unwrap();
        assert_eq!(fs::read(path).unwrap(), b"ab");
    }

    #[test]
    fn what_was_kept_is_taken_over_and_the_rest_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(Container::Folder("m".into()), &[("a", 4), ("b", 4)]);
        let mut staging = create(dir.path(), &plan, Leftovers::Replace);
        staging.map().unwrap()[0]
            .bytes_mut()
            .copy_from_slice(b"work");
        staging.keep(true);
        drop(staging);
        let folder = dir.path().join(".m.partial");
        fs::write(folder.join("b"), "wrong size").unwrap();
        fs::write(folder.join("stray"), "").unwrap();
        let mut staging = create(dir.path(), &plan, Leftovers::TakeOver);
        let path = staging.publish().unwrap();
        assert_eq!(names(&path), ["a", "b"]);
        assert_eq!(fs::read(path.join("a")).unwrap(), b"work");
        assert_eq!(fs::read(path.join("b")).unwrap(), [0; 4]);
    }
}
