//! Gets the files of a model into the cache: what is missing, several at a time.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::cache::{ModelCache, is_blob_name};
use super::client::Repository;
use super::download::{Wanted, blob};
use super::listing::Listing;
use super::patience::patiently;
use super::select::{Choice, choose};
use crate::error::{Error, ExitCode, Result};
use crate::job::{JobProgress, Work};
use crate::output::{Bar, bytes};
use crate::source::{INDEX, SINGLE, shard_names};
use crate::system;

/// Files that come at the same time.
const CONNECTIONS: usize = 4;

/// Gets a whole model; returns its folder or its first file.
///
/// # Errors
/// Whatever fails first.
pub fn model(repository: &Repository, extensions: &[String]) -> Result<PathBuf> {
    let source = Source::find(repository)?;
    let choice = source.choose(extensions)?;
    let names = match &choice {
        Choice::Folder { small, sharded } => {
            let weights = source.weights(*sharded)?;
            small.iter().cloned().chain(weights).collect()
        }
        Choice::File(names) => names.clone(),
    };
    source.get(&names, Tell::User)?;
    source.note_the_commit();
    let snapshot = source.cache.snapshot(&source.listing.commit);
    Ok(match choice {
        Choice::Folder { .. } => snapshot,
        Choice::File(names) => snapshot.join(&names[0]),
    })
}

/// Whether the user is told about a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tell {
    /// With its size and a bar.
    User,
    /// No: it is small, and serves something else.
    Nobody,
}

/// A commit of a repository, and its place in the cache.
#[derive(Debug)]
pub struct Source<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// The cache.
    pub cache: ModelCache,
    /// The commit's files.
    pub listing: Listing,
}

impl<'a> Source<'a> {
    /// Finds out what the revision means.
    ///
    /// # Errors
    /// If nobody knows it.
    pub fn find(repository: &'a Repository) -> Result<Self> {
        let cache = ModelCache::new(&repository.settings().cache, repository.id());
        let listing = Listing::get(repository, &cache)?;
        Ok(Self {
            repository,
            cache,
            listing,
        })
    }

    /// Chooses the files that the model consists of.
    ///
    /// # Errors
    /// If there is no model among them, or more than one.
    pub fn choose(&self, extensions: &[String]) -> Result<Choice> {
        let choice = choose(self.repository.id(), &self.listing, extensions);
        match choice {
            // The cache holds what somebody asked for, which may have been less.
            Err(error) if self.listing.cached_only && error.class == ExitCode::Validation => {
                Err(self.not_cached("the weights"))
            }
            choice => choice,
        }
    }

    /// Names of the files with the weights; gets the index for it.
    ///
    /// # Errors
    /// If the index cannot be had or is not valid.
    pub fn weights(&self, sharded: bool) -> Result<Vec<String>> {
        if !sharded {
            return Ok(vec![SINGLE.into()]);
        }
        self.get(&[INDEX.to_owned()], Tell::Nobody)?;
        Ok(shard_names(&self.path(INDEX))?.into_iter().collect())
    }

    /// Notes what the revision means now that everything of it is here. Models can be
    /// used without it, e.g. from a cache that nobody may write to.
    pub fn note_the_commit(&self) {
        if let Err(error) = self.cache.remember(&self.listing.commit) {
            self.repository.ui().debug(&error.message);
        }
    }

    /// Where a file lies in the snapshot, or would.
    pub fn path(&self, name: &str) -> PathBuf {
        self.cache.snapshot(&self.listing.commit).join(name)
    }

    /// What the Hub knows about a file that the cache does not have.
    ///
    /// # Errors
    /// If there is no such file, or the Hub may not be asked.
    pub fn wanted(&self, name: &str) -> Result<Wanted> {
        let id = self.repository.id();
        let listing = &self.listing;
        if listing.cached_only {
            return Err(self.not_cached(name));
        }
        let Some(facts) = listing.files.get(name) else {
            return Err(Error::validation(format!(
                "{INDEX} of {id} names {name}, which the repository does not have"
            ))
            .suggest("the upload is incomplete; tell its authors"));
        };
        let url = self.repository.file_url(&listing.commit, name);
        let (size, hash) = match (facts.size, &facts.hash) {
            (Some(size), Some(hash)) => (size, hash.clone()),
            _ => self.ask(&url, name)?,
        };
        Ok(Wanted {
            name: name.to_owned(),
            url,
            size,
            hash,
        })
    }

    /// Length and hash, from the headers of an answer: mirrors do not always have them
    /// in the list.
    fn ask(&self, url: &str, name: &str) -> Result<(u64, String)> {
        let answer = patiently(self.repository, || {
            self.repository.get(url, Some(0..1), name)
        })?;
        let hash = answer.etag.filter(|hash| is_blob_name(hash));
        match (answer.total, hash) {
            (Some(size), Some(hash)) => Ok((size, hash)),
            _ => Err(Error::other(format!(
                "{} does not say how long {name} is, or which version",
                answer.host
            ))
            .suggest("check HF_ENDPOINT: a server must answer as the Hub does")),
        }
    }

    fn not_cached(&self, name: &str) -> Error {
        let folder = self.cache.snapshot(&self.listing.commit);
        let reason = match self.repository.settings().offline {
            true => "HF_HUB_OFFLINE forbids to download it",
            false => "the Hub cannot be reached",
        };
        Error::model_not_found(format!("{} lacks {name}, and {reason}", folder.display()))
            .suggest("run once with a connection and without HF_HUB_OFFLINE")
    }

    /// Gets those of some files that the cache lacks.
    ///
    /// # Errors
    /// Whatever fails first; what is complete or came in part stays.
    pub fn get(&self, names: &[String], tell: Tell) -> Result<()> {
        let mut missing = Vec::new();
        for name in names {
            if !self.path(name).is_file() {
                missing.push(self.wanted(name)?);
            }
        }
        let here = |wanted: &Wanted| self.cache.blob(&wanted.hash).is_file();
        let present = |wanted: &Wanted| {
            let partial = self.cache.incomplete(&wanted.hash);
            std::fs::metadata(partial).map_or(0, |metadata| metadata.len().min(wanted.size))
        };
        let coming: Vec<&Wanted> = missing.iter().filter(|wanted| !here(wanted)).collect();
        let all: u64 = coming.iter().map(|wanted| wanted.size).sum();
        let kept: u64 = coming.iter().map(|wanted| present(wanted)).sum();
        let progress = Bar::new(Arc::clone(self.repository.ui()), "Downloading");
        if !coming.is_empty() {
            self.check_disk(all - kept)?;
        }
        if tell == Tell::User {
            self.announce(coming.len(), all, kept);
            if !coming.is_empty() {
                progress.begin(Work {
                    amount: all - kept,
                    ..Work::default()
                });
            }
        }
        in_parallel(self.repository, &missing, |wanted| {
            self.one(wanted, &progress)
        })?;
        progress.end();
        Ok(())
    }

    fn announce(&self, count: usize, all: u64, kept: u64) {
        let (ui, id) = (self.repository.ui(), self.repository.id());
        let commit = self.listing.short_commit();
        let model = format!("{}@{commit}", id.repository);
        if count == 0 {
            ui.verbose(&format!("{model} is in the cache"));
            return;
        }
        let files = if count == 1 { "file" } else { "files" };
        let kept = match kept {
            0 => String::new(),
            kept => format!(" ({} of it from last time)", bytes(kept)),
        };
        let size = bytes(all);
        ui.info(&format!(
            "Downloading {model}: {count} {files}, {size}{kept}"
        ));
    }

    fn check_disk(&self, needed: u64) -> Result<()> {
        let root = self.cache.root();
        match system::free_disk(root) {
            Some(free) if free < needed => Err(Error::new(
                ExitCode::DiskSpace,
                format!(
                    "the download needs {}, {} has {} free",
                    bytes(needed),
                    root.display(),
                    bytes(free)
                ),
            )
            .suggest("free some space, or choose another disk with LLM_QUANTIZE_CACHE or HF_HOME")),
            _ => Ok(()),
        }
    }

    fn one(&self, wanted: &Wanted, progress: &Bar) -> Result<()> {
        let cache = &self.cache;
        if !cache.blob(&wanted.hash).is_file() {
            blob(self.repository, cache, wanted, progress)?;
        }
        cache.link(&wanted.hash, &self.listing.commit, &wanted.name)?;
        Ok(())
    }
}

/// Does the same for several files, some at a time; the first failure ends the others.
///
/// # Errors
/// The first failure.
pub fn in_parallel<T: Sync>(
    repository: &Repository,
    items: &[T],
    work: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let one_by_one = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = work(item) {
                let mut first = failed.lock().unwrap_or_else(PoisonError::into_inner);
                // The others end because of this one; what they say is no news.
                first.get_or_insert(error);
                repository.stop();
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..items.len().min(CONNECTIONS) {
            scope.spawn(one_by_one);
        }
        one_by_one();
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
