//! A model of which only the headers are here.
//!
//! Its small files lie in the cache. Each file of weights is stood for by a sparse file
//! of the right length: the header, which was asked for by ranges, and after it a hole
//! that takes no space on the disk. Whoever reads headers finds what a complete
//! download would show him.
//!
//! Safetensors files say how long their header is. What a plugin reads does not say it
//! to the host: its beginning is got in growing pieces until the plugin is satisfied
//! and the first tensor lies beyond what is here.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::cache::ModelCache;
use super::client::Repository;
use super::download::{Wanted, check_length};
use super::failure::Failure;
use super::fetch::{Source, Tell, in_parallel};
use super::patience::patiently;
use super::select::Choice;
use crate::error::{Error, Result};

/// The longest header of a safetensors file.
const MAX_HEADER: u64 = 100_000_000;
/// The first piece of a file that only a plugin can read: a small vocabulary.
const FIRST_PIECE: u64 = 512 << 10;
/// How much more each further piece brings.
const GROWTH: u64 = 4;
/// More than the header of any real model.
const MOST: u64 = 512 << 20;

/// A model of which perhaps only the headers are here.
#[derive(Debug)]
pub struct Preview {
    path: PathBuf,
    page: String,
    /// `None` if the cache has the whole model.
    stand_in: Option<StandIn>,
    unread: Option<Unread>,
}

/// A snapshot with sparse files, and the address of what it stands for.
#[derive(Debug)]
struct StandIn {
    snapshot: PathBuf,
    address: String,
    /// Removed at the end.
    _folder: TempDir,
}

/// Files whose header may go on beyond what is here.
#[derive(Debug)]
pub struct Unread {
    repository: Repository,
    files: Vec<(Wanted, PathBuf)>,
    here: u64,
}

impl Preview {
    /// Gets the small files and the headers.
    ///
    /// # Errors
    /// If they cannot be had.
    pub fn new(repository: Repository, extensions: &[String]) -> Result<Self> {
        let source = Source::find(&repository)?;
        let page = repository.page(&source.listing.commit);
        let (small, weights, folder) = match source.choose(extensions)? {
            Choice::Folder { small, sharded } => {
                source.get(&small, Tell::Nobody)?;
                (small, source.weights(sharded)?, true)
            }
            Choice::File(names) => (Vec::new(), names, false),
        };
        let path_in = |snapshot: &Path| match weights.first() {
            Some(first) if !folder => snapshot.join(first),
            _ => snapshot.to_owned(),
        };
        if all_here(&source, &weights)? {
            source.get(&weights, Tell::Nobody)?;
            source.note_the_commit();
            return Ok(Self {
                path: path_in(&source.cache.snapshot(&source.listing.commit)),
                page,
                stand_in: None,
                unread: None,
            });
        }
        let stand_in = StandIn::new(&source)?;
        stand_in.copy(&source, &small)?;
        let wanted: Result<Vec<Wanted>> = weights.iter().map(|name| source.wanted(name)).collect();
        let files = stand_in.hollow(wanted?)?;
        drop(source);
        let unread = match folder {
            true => safetensors_headers(&repository, &files).map(|()| None)?,
            false => Some(Unread::begin(repository, files)?),
        };
        Ok(Self {
            path: path_in(&stand_in.snapshot),
            page,
            stand_in: Some(stand_in),
            unread,
        })
    }

    /// What to open.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the model is, for people.
    pub fn page(&self) -> &str {
        &self.page
    }

    /// Whether the cache has the model, with its weights.
    pub fn is_whole(&self) -> bool {
        self.stand_in.is_none()
    }

    /// Whether a header that ends at this byte is here.
    pub fn has(&self, end: u64) -> bool {
        self.unread.as_ref().is_none_or(|unread| end <= unread.here)
    }

    /// An error about the stand-in, told about what it stands for.
    pub fn explain(&self, mut error: Error) -> Error {
        if let Some(stand_in) = &self.stand_in
            && let Some(snapshot) = stand_in.snapshot.to_str()
        {
            error.message = error.message.replace(snapshot, &stand_in.address);
        }
        error
    }

    /// Takes out what could still be read, if there is anything.
    pub(super) fn take_unread(&mut self) -> Option<Unread> {
        let more = |unread: &Unread| {
            let longest = unread.files.iter().map(|(wanted, _)| wanted.size).max();
            unread.here < longest.unwrap_or(0).min(MOST)
        };
        self.unread.take_if(|unread| more(unread))
    }

    pub(super) fn put_back(&mut self, unread: Unread) {
        self.unread = Some(unread);
    }
}

impl StandIn {
    fn new(source: &Source<'_>) -> Result<Self> {
        let (repository, commit) = (source.repository, &source.listing.commit);
        let folder = tempfile::tempdir()
            .map_err(|error| Error::io("create a folder in", &std::env::temp_dir(), error))?;
        // Under the same names as in the cache: models are named by their folders.
        let layout = ModelCache::new(folder.path(), repository.id());
        Ok(Self {
            snapshot: layout.snapshot(commit),
            address: repository.folder_page(commit),
            _folder: folder,
        })
    }

    /// Copies small files out of the cache. Copies, because a link out of a model's
    /// folder is not followed.
    fn copy(&self, source: &Source<'_>, names: &[String]) -> Result<()> {
        for name in names {
            let path = self.snapshot.join(name);
            let create = |error| Error::io("create", &path, error);
            fs::create_dir_all(path.parent().unwrap_or(&self.snapshot)).map_err(create)?;
            fs::copy(source.path(name), &path).map_err(create)?;
        }
        Ok(())
    }

    /// Puts files of the right length with nothing in them beside.
    fn hollow(&self, missing: Vec<Wanted>) -> Result<Vec<(Wanted, PathBuf)>> {
        let mut files = Vec::new();
        for wanted in missing {
            let path = self.snapshot.join(&wanted.name);
            let create = |error| Error::io("create", &path, error);
            fs::create_dir_all(path.parent().unwrap_or(&self.snapshot)).map_err(create)?;
            let file = File::create_new(&path).map_err(create)?;
            file.set_len(wanted.size).map_err(create)?;
            files.push((wanted, path));
        }
        Ok(files)
    }
}

impl Unread {
    fn begin(repository: Repository, files: Vec<(Wanted, PathBuf)>) -> Result<Self> {
        let mut unread = Self {
            repository,
            files,
            here: 0,
        };
        unread.read_on()?;
        Ok(unread)
    }

    /// Gets the next piece of every file.
    ///
    /// # Errors
    /// If it cannot be had.
    pub(super) fn read_on(&mut self) -> Result<()> {
        let end = match self.here {
            0 => FIRST_PIECE,
            here => here.saturating_mul(GROWTH).min(MOST),
        };
        in_parallel(&self.repository, &self.files, |(wanted, path)| {
            let range = self.here.min(wanted.size)..end.min(wanted.size);
            let bytes = read_range(&self.repository, wanted, range.clone())?;
            write_at(path, &bytes, range.start)
        })?;
        self.here = end;
        Ok(())
    }
}

/// Whether the cache has all the weights.
fn all_here(source: &Source<'_>, weights: &[String]) -> Result<bool> {
    for name in weights {
        let linked = source.path(name).is_file();
        if !linked && !source.cache.blob(&source.wanted(name)?.hash).is_file() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn safetensors_headers(repository: &Repository, files: &[(Wanted, PathBuf)]) -> Result<()> {
    in_parallel(repository, files, |(wanted, path)| {
        safetensors_header(repository, wanted, path)
    })
}

/// Asks for the header of a safetensors file, and for nothing else: its length, then
/// so many bytes.
fn safetensors_header(repository: &Repository, wanted: &Wanted, path: &Path) -> Result<()> {
    const LENGTH: u64 = 8;
    let length = read_range(repository, wanted, 0..LENGTH.min(wanted.size))?;
    write_at(path, &length, 0)?;
    let length = length.try_into().map_or(0, u64::from_le_bytes);
    // A length that cannot be is left to the reader of the file, who says so.
    let end = LENGTH.saturating_add(length);
    if length > MAX_HEADER || end > wanted.size {
        return Ok(());
    }
    let header = read_range(repository, wanted, LENGTH..end)?;
    write_at(path, &header, LENGTH)
}

fn write_at(path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
    let file = File::options().write(true).open(path);
    let written = file.and_then(|file| file.write_all_at(bytes, offset));
    written.map_err(|error| Error::io("write", path, error))
}

fn read_range(
    repository: &Repository,
    wanted: &Wanted,
    range: std::ops::Range<u64>,
) -> Result<Vec<u8>> {
    if range.is_empty() {
        return Ok(Vec::new());
    }
    Ok(patiently(repository, || {
        try_range(repository, wanted, &range)
    })?)
}

fn try_range(
    repository: &Repository,
    wanted: &Wanted,
    range: &std::ops::Range<u64>,
) -> Result<Vec<u8>, Failure> {
    let answer = repository.get(&wanted.url, Some(range.clone()), &wanted.name)?;
    check_length(&answer, wanted)?;
    let mut body = answer.body;
    let host = &answer.host;
    let broke_off = |error: &dyn std::fmt::Display| {
        Failure::connection(format!(
            "{host} broke off while sending {}: {error}",
            wanted.name
        ))
    };
    // A server that sends no parts sends from the beginning.
    let before = range.start - answer.start;
    let skipped = std::io::copy(&mut body.by_ref().take(before), &mut std::io::sink());
    skipped.map_err(|error| broke_off(&error))?;
    let length = range.end - range.start;
    let mut bytes = Vec::new();
    let read = body.take(length).read_to_end(&mut bytes);
    read.map_err(|error| broke_off(&error))?;
    match bytes.len() as u64 == length {
        true => Ok(bytes),
        false => Err(broke_off(&"it sent less than it was asked for")),
    }
}
