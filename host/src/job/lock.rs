//! One run at a time builds an output.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::staging::Destination;
use crate::error::{Error, Result};
use crate::system::is_same;

/// Another run may remove the file between opening and locking it; so often this is
/// tried again.
const ATTEMPTS: usize = 100;

/// The lock on an output: a file beside it that this process holds.
///
/// The system drops the lock with the process, however it ends, so a file that a
/// killed run left is no obstacle.
#[derive(Debug)]
pub struct OutputLock {
    path: PathBuf,
    _file: File,
}

impl OutputLock {
    /// Takes the lock on an output.
    ///
    /// # Errors
    /// At once if another run has it, with its process id; or if the file cannot be
    /// made.
    pub fn take(destination: &Destination) -> Result<Self> {
        let name = format!(".{}.lock", destination.name());
        let path = destination.main().with_file_name(name);
        for _ in 0..ATTEMPTS {
            if let Some(file) = try_lock(&path)? {
                return Ok(Self { path, _file: file });
            }
        }
        Err(Error::other(format!(
            "cannot lock {}: other runs keep removing it",
            path.display()
        )))
    }
}

impl Drop for OutputLock {
    /// The file goes while it is still locked: whoever opened it before sees that it is
    /// no longer the one of that name.
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

/// `None` if the file was removed meanwhile.
fn try_lock(path: &Path) -> Result<Option<File>> {
    let failed = |error| Error::io("create the lock", path, error);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(taken(path, &mut file)),
        // Some network file systems have no locks; that must not forbid all work there.
        Err(TryLockError::Error(error)) if has_no_locks(&error) => {}
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", path, error)),
    }
    if !is_same(&file, path) {
        return Ok(None);
    }
    // For the message of a second run; without it the message is shorter.
    let noted = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    drop(noted);
    Ok(Some(file))
}

fn has_no_locks(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    error.kind() == ErrorKind::Unsupported || errno == Some(Errno::NOLCK)
}

fn taken(path: &Path, file: &mut File) -> Error {
    let mut text = String::new();
    // A process id is short; whatever else lies there is not read.
    let holder = match file.take(20).read_to_string(&mut text) {
        Ok(_) => text.trim().parse::<u32>().ok(),
        Err(_) => None,
    };
    let who = match holder {
        Some(pid) => format!("another run (process {pid})"),
        None => "another run".to_owned(),
    };
    Error::other(format!(
        "{who} is building this output: it holds the lock {}",
        path.display()
    ))
    .suggest("wait for it to end, or choose another --output-name")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(folder: &Path) -> Destination {
        Destination {
            folder: folder.to_owned(),
            targets: vec![folder.join("m.gguf")],
        }
    }

    #[test]
    fn the_second_is_refused_with_the_holder_and_the_third_may_come_later() {
        let dir = tempfile::tempdir().unwrap();
        let to = destination(dir.path());
        let first = OutputLock::take(&to).unwrap();
        let error = OutputLock::take(&to).unwrap_err();
        let pid = std::process::id().to_string();
        assert!(error.message.contains(&pid), "{error}");
        assert!(error.message.contains(".m.gguf.lock"), "{error}");
        drop(first);
        drop(OutputLock::take(&to).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_dead_run_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".m.gguf.lock");
        fs::write(&path, "4194305\n and more").unwrap();
        let lock = OutputLock::take(&destination(dir.path())).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim(), std::process::id().to_string());
        drop(lock);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_was_removed_meanwhile_is_not_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = File::create_new(&path).unwrap();
        assert!(is_same(&file, &path));
        fs::remove_file(&path).unwrap();
        assert!(!is_same(&file, &path));
        fs::write(&path, "").unwrap();
        assert!(!is_same(&file, &path));
    }

    #[test]
    fn many_threads_never_hold_it_together() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let to = destination(dir.path());
        let (inside, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let Ok(lock) = OutputLock::take(&to) else {
                            continue;
                        };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        taken.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert!(taken.into_inner() > 0);
    }
}
