//! The output while it is being built: files under temporary names, laid out at
//! their full size, mapped, and renamed when all is done.
//!
//! Whatever happens before [`Staging::publish`], nothing under the output's own name
//! changes. What is dropped before that is removed.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use llm_quantize_plugin_api::{Container, FileContent, Plan, Span};

use super::output_map::OutputMap;
use crate::error::{Error, ExitCode, Result};

/// Where a plan's output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The output folder.
    pub folder: PathBuf,
    /// What appears there: the files, or the one folder with the files.
    pub targets: Vec<PathBuf>,
}

impl Destination {
    /// The destination of a plan in an output folder.
    pub fn new(folder: &Path, plan: &Plan) -> Self {
        let targets = match &plan.container {
            Container::Folder(name) => vec![folder.join(name)],
            Container::Files => plan.files.iter().map(|f| folder.join(&f.name)).collect(),
        };
        Self {
            folder: folder.to_owned(),
            targets,
        }
    }

    /// The path that the user is told: the first file, or the folder.
    pub fn main(&self) -> &Path {
        self.targets.first().unwrap_or(&self.folder)
    }
}

/// An output that is being built.
#[derive(Debug)]
pub struct Staging {
    destination: Destination,
    /// Where each target is built.
    temporary: Vec<PathBuf>,
    files: Vec<StagedFile>,
    published: bool,
}

#[derive(Debug)]
struct StagedFile {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Staging {
    /// Creates the files at their full size, with disk space reserved.
    ///
    /// # Errors
    /// If a file cannot be created, or the disk is too small ([`ExitCode::DiskSpace`]).
    pub fn create(destination: Destination, plan: &Plan) -> Result<Self> {
        let temporary: Vec<PathBuf> = destination.targets.iter().map(|t| partial(t)).collect();
        for leftover in &temporary {
            remove(leftover)?;
        }
        let mut staging = Self {
            destination,
            temporary,
            files: Vec::new(),
            published: false,
        };
        let in_folder = matches!(plan.container, Container::Folder(_));
        if in_folder {
            let folder = &staging.temporary[0];
            fs::create_dir(folder).map_err(|error| Error::io("create", folder, error))?;
        }
        for (index, planned) in plan.files.iter().enumerate() {
            let path = match in_folder {
                true => staging.temporary[0].join(&planned.name),
                false => staging.temporary[index].clone(),
            };
            let file = reserve(&path, planned.size)?;
            staging.files.push(StagedFile {
                path,
                file,
                size: planned.size,
            });
        }
        Ok(staging)
    }

    /// Maps all files for writing.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn map(&self) -> Result<Vec<OutputMap>> {
        self.files
            .iter()
            .map(|staged| {
                OutputMap::new(&staged.file, &staged.path, staged.size)
                    .map_err(|error| Error::io("map", &staged.path, error))
            })
            .collect()
    }

    /// Writes the content of all side files.
    ///
    /// # Errors
    /// If `read` has no such file, it has another length than planned, or writing fails.
    pub fn copy_side_files<'a>(
        &mut self,
        plan: &Plan,
        read: impl Fn(&str) -> Result<&'a [u8]>,
    ) -> Result<()> {
        use std::io::Write;
        for (planned, staged) in plan.files.iter().zip(&mut self.files) {
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
            staged
                .file
                .write_all(bytes)
                .map_err(|error| Error::io("write", &staged.path, error))?;
        }
        Ok(())
    }

    /// The files as they lie on the disk, in the plan's order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|staged| staged.path.as_path())
    }

    /// Makes everything durable: a power cut after this loses nothing.
    ///
    /// # Errors
    /// If the disk reports a failure.
    pub fn sync(&self) -> Result<()> {
        for staged in &self.files {
            staged
                .file
                .sync_all()
                .map_err(|error| Error::io("write", &staged.path, error))?;
        }
        Ok(())
    }

    /// Gives the output its own name. Of several files the first, which loaders
    /// open, comes last.
    ///
    /// # Errors
    /// If a rename fails; what was there before stays.
    pub fn publish(mut self) -> Result<PathBuf> {
        let pairs = self.temporary.iter().zip(&self.destination.targets);
        for (temporary, target) in pairs.rev() {
            replace(temporary, target)?;
        }
        self.published = true;
        sync_folder(&self.destination.folder);
        Ok(self.destination.main().to_owned())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        for path in &self.temporary {
            // There is no one left to tell; a leftover is removed by the next run.
            drop(remove(path));
        }
    }
}

/// The temporary name beside a target.
fn partial(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.partial"))
}

/// Creates a file and reserves its blocks, so that a full disk shows here and not as
/// a fault in the middle of a write to the map.
fn reserve(path: &Path, size: u64) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|error| Error::io("create", path, error))?;
    if size == 0 {
        return Ok(file);
    }
    match allocate(&file, size) {
        Ok(()) => Ok(file),
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {
            let sized = file.set_len(size);
            sized.map_err(|error| Error::io("resize", path, error))?;
            Ok(file)
        }
        Err(error) => Err(Error::io("reserve space for", path, error)),
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn allocate(file: &File, size: u64) -> std::io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    Ok(fallocate(file, FallocateFlags::empty(), 0, size)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn allocate(_: &File, _: u64) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

fn remove(path: &Path) -> Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let removed = match found.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    removed.map_err(|error| Error::io("remove", path, error))
}

/// Renames over whatever is there. A folder cannot be renamed over another one, so
/// the old one steps aside first and comes back if the new one fails.
fn replace(temporary: &Path, target: &Path) -> Result<()> {
    let failed = |error| Error::io("rename to", target, error);
    if !target.is_dir() {
        return fs::rename(temporary, target).map_err(failed);
    }
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let aside = target.with_file_name(format!(".{name}.old"));
    remove(&aside)?;
    fs::rename(target, &aside).map_err(failed)?;
    if let Err(error) = fs::rename(temporary, target) {
        fs::rename(&aside, target).map_err(failed)?;
        return Err(failed(error));
    }
    remove(&aside)
}

/// The rename itself must survive a power cut; some systems cannot sync a folder.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        drop(folder.sync_all());
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
        let staging = Staging::create(Destination::new(dir.path(), &plan), &plan).unwrap();
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
        let staging = Staging::create(Destination::new(dir.path(), &plan), &plan).unwrap();
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
        let staging = Staging::create(Destination::new(dir.path(), &plan), &plan).unwrap();
        let path = staging.publish().unwrap();
        assert_eq!(names(dir.path()), ["model"]);
        assert_eq!(names(&path), ["x"]);
    }

    #[test]
    fn side_files_must_have_the_planned_length() {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = plan(Container::Files, &[("t.json", 2)]);
        plan.files[0].content = FileContent::CopyOf("tokenizer.json".into());
        let mut staging = Staging::create(Destination::new(dir.path(), &plan), &plan).unwrap();
        assert!(staging.copy_side_files(&plan, |_| Ok(b"abc")).is_err());
        staging.copy_side_files(&plan, |_| Ok(b"ab")).unwrap();
        let path = staging.publish().unwrap();
        assert_eq!(fs::read(path).unwrap(), b"ab");
    }
}
