//! The download of one file: resumed, counted, hashed, and only then given its name.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::cache::ModelCache;
use super::checksum::Checksum;
use super::client::{Answer, Repository};
use super::failure::Failure;
use super::patience::Patience;
use crate::error::{Error, Result};
use crate::job::JobProgress;
use crate::output::{Bar, bytes as human};

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;
/// Downloads whose hash is wrong before it is given up.
const ROUNDS: usize = 2;

/// A file that is to be downloaded.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its name in the repository.
    pub name: String,
    /// Its address at the commit.
    pub url: String,
    /// Its length.
    pub size: u64,
    /// The name of its blob.
    pub hash: String,
}

/// Downloads a blob, unless it is there or comes from another process meanwhile.
///
/// # Errors
/// If it cannot be had, or is not what the Hub says that it is.
pub fn blob(
    repository: &Repository,
    cache: &ModelCache,
    wanted: &Wanted,
    progress: &Bar,
) -> Result<()> {
    let path = cache.blob(&wanted.hash);
    let _lock = cache.lock(&wanted.hash, &wanted.name, repository)?;
    if path.is_file() {
        progress.bytes(wanted.size);
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| Error::io("create", folder, error))?;
    }
    let incomplete = cache.incomplete(&wanted.hash);
    for round in 1.. {
        let mut partial = Partial::open(&incomplete, wanted)?;
        partial.fill(repository, progress)?;
        match partial.finish()? {
            None => break,
            Some(found) => {
                remove(&incomplete)?;
                let what = format!(
                    "{} came with the hash {found} instead of {}",
                    wanted.name, wanted.hash
                );
                if round == ROUNDS {
                    let error = Error::validation(what);
                    return Err(error.suggest(
                        "the file is damaged on its way or at its origin; try again later, or \
                         through another connection",
                    ));
                }
                repository
                    .ui()
                    .warn(&format!("{what}; downloading it again"));
                progress.add_work(wanted.size);
            }
        }
    }
    fs::rename(&incomplete, &path).map_err(|error| Error::io("write", &path, error))
}

/// What there is of a file so far.
struct Partial<'a> {
    wanted: &'a Wanted,
    path: &'a Path,
    file: File,
    length: u64,
    hash: Checksum,
}

impl<'a> Partial<'a> {
    fn open(path: &'a Path, wanted: &'a Wanted) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| Error::io("write", path, error))?;
        let mut partial = Self {
            wanted,
            path,
            file,
            length: 0,
            hash: Checksum::for_blob(&wanted.hash, wanted.size),
        };
        partial.take_up()?;
        Ok(partial)
    }

    /// Hashes what an earlier run left.
    fn take_up(&mut self) -> Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = self.file.read(&mut buffer);
            let count = read.map_err(|error| Error::io("read", self.path, error))?;
            if count == 0 {
                break;
            }
            self.length += count as u64;
            self.hash.update(&buffer[..count]);
        }
        match self.length > self.wanted.size {
            true => self.restart(),
            false => Ok(()),
        }
    }

    fn restart(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0);
        let rewound = emptied.and_then(|()| self.file.seek(SeekFrom::Start(0)));
        rewound.map_err(|error| Error::io("write", self.path, error))?;
        self.length = 0;
        self.hash = Checksum::for_blob(&self.wanted.hash, self.wanted.size);
        Ok(())
    }

    /// Gets what is missing, over as many connections as it takes.
    fn fill(&mut self, repository: &Repository, progress: &Bar) -> Result<()> {
        let mut patience = Patience::new();
        while self.length < self.wanted.size {
            let before = self.length;
            if let Err(failure) = self.receive(repository, progress) {
                if self.length > before {
                    patience.renew();
                }
                patience.wait(repository, failure)?;
            }
        }
        Ok(())
    }

    fn receive(&mut self, repository: &Repository, progress: &Bar) -> Result<(), Failure> {
        let wanted = self.wanted;
        // No If-Range: the storage that the Hub redirects to has entity tags of its
        // own. That the parts belong together is what the hash proves at the end.
        let range = (self.length > 0).then_some(self.length..u64::MAX);
        let answer = repository.get(&wanted.url, range, &wanted.name)?;
        check_length(&answer, wanted)?;
        let another = answer.etag.as_ref().is_some_and(|tag| *tag != wanted.hash);
        if self.length > 0 && (answer.start == 0 || (another && is_unhashed(&self.hash))) {
            // The server sends no parts, or has another file by now.
            progress.add_work(self.length);
            self.restart()?;
            if answer.start > 0 {
                return Ok(());
            }
        }
        self.copy(answer, repository, progress)
    }

    fn copy(
        &mut self,
        mut answer: Answer,
        repository: &Repository,
        progress: &Bar,
    ) -> Result<(), Failure> {
        let Wanted { name, size, .. } = self.wanted;
        let mut buffer = vec![0; BUFFER];
        while self.length < *size {
            repository.check()?;
            let read = answer.body.read(&mut buffer);
            let count = match read {
                Ok(0) => 0,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let host = &answer.host;
                    let what = format!("{host} broke off while sending {name}: {error}");
                    return Err(Failure::connection(what));
                }
            };
            if count == 0 {
                let host = &answer.host;
                let what = format!("{host} broke off while sending {name}");
                return Err(Failure::connection(what));
            }
            let new = &buffer[..count];
            if self.length + count as u64 > *size {
                let found = self.length + count as u64;
                return Err(wrong_length(&answer.host, self.wanted, found).into());
            }
            let written = self.file.write_all(new);
            written.map_err(|error| Error::io("write", self.path, error))?;
            self.hash.update(new);
            self.length += count as u64;
            progress.bytes(count as u64);
        }
        Ok(())
    }

    /// Puts the content on the disk; `Some` is its hash, if that is not the one it
    /// should be.
    fn finish(self) -> Result<Option<String>> {
        let synced = self.file.sync_data();
        synced.map_err(|error| Error::io("write", self.path, error))?;
        let found = self.hash.finish();
        Ok(found.filter(|found| *found != self.wanted.hash))
    }
}

fn is_unhashed(hash: &Checksum) -> bool {
    matches!(hash, Checksum::Unknown)
}

/// Refuses an answer that is about another length than the Hub named.
///
/// # Errors
/// With both lengths.
pub fn check_length(answer: &Answer, wanted: &Wanted) -> Result<()> {
    match answer.total {
        Some(total) if total != wanted.size => Err(wrong_length(&answer.host, wanted, total)),
        _ => Ok(()),
    }
}

fn wrong_length(host: &str, wanted: &Wanted, found: u64) -> Error {
    Error::validation(format!(
        "{host} sends {} with {found} bytes ({}), the Hub says that it has {} ({})",
        wanted.name,
        human(found),
        wanted.size,
        human(wanted.size)
    ))
    .suggest("a proxy or mirror may hold an old copy; try again later or without it")
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).map_err(|error| Error::io("remove", path, error))
}
