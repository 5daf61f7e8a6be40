//! Locks between processes, as Python's client takes them: two of them do not write
//! one blob.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use super::client::Repository;
use crate::error::{Error, Result};
use crate::system::is_same;

/// How often a lock is tried.
const TICK: Duration = Duration::from_millis(100);
/// After this the user is told what is waited for.
const TELL: Duration = Duration::from_secs(2);

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] File);

impl Lock {
    /// Waits for the lock of a file; `what` is what is locked, for the user.
    ///
    /// # Errors
    /// If the lock's file cannot be created; after an interrupt.
    pub fn wait(path: &Path, what: &str, repository: &Repository) -> Result<Self> {
        let failed = |error| Error::io("lock", path, error);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| Error::io("create", folder, error))?;
        }
        let begin = Instant::now();
        let mut told = false;
        loop {
            repository.check()?;
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path)
                .map_err(failed)?;
            match file.try_lock() {
                // Others may remove the file when they let go: then this lock is one
                // that nobody else can see.
                Ok(()) if is_same(&file, path) => return Ok(Self(file)),
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) => {}
                // A file system without locks: the hash is checked all the same.
                Err(TryLockError::Error(error))
                    if error.kind() == std::io::ErrorKind::Unsupported =>
                {
                    return Ok(Self(file));
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            if !told && begin.elapsed() > TELL {
                told = true;
                let message = format!("Waiting for another program that downloads {what}");
                repository.ui().info(&message);
            }
            std::thread::sleep(TICK);
        }
    }
}
