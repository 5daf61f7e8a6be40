//! Models on the Hugging Face Hub: finds their files, downloads what is needed into
//! the cache that every Hub client shares, or reads headers only.
//!
//! # Why hf-hub 0.5 and a transfer of our own
//! - **hf-hub 1.0** is asynchronous (tokio, reqwest, Xet): 236 crates by itself. A
//!   download over HTTP empties the partial file and begins again.
//! - **hf-hub 0.5** with `ureq` is synchronous: 58 crates by itself, and 45 that the
//!   program did not have. Its own downloader resumes, but neither looks at what a
//!   ranged request was answered with nor checks length or hash; it knows no
//!   `Retry-After`, no cancellation, no ranges of a file, locks other paths than
//!   Python's client, and panics where a file cannot be linked.
//!
//! So hf-hub 0.5 says how things are named and where they lie (`Repo`, `Cache`,
//! `CacheRepo`, the token's file), and the bytes move over its own `ureq`. TLS is
//! rustls with ring, which needs a C compiler and no library of the system; the roots
//! are the system's, or Mozilla's on a machine that has none.
//!
//! # How a model comes
//! [`ModelId`] → [`listing`](listing): the revision's commit and its files →
//! [`select`](select): those that the model consists of → [`fetch`](fetch): each as
//! a blob that is named by its hash, linked into the snapshot of the commit. For a
//! description there is [`Preview`], which asks for headers only.

mod cache;
mod checksum;
mod client;
mod download;
mod environment;
mod failure;
mod fetch;
mod id;
mod listing;
mod lock;
mod patience;
mod preview;
mod redirect;
mod refusal;
mod select;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::error::{Error, ExitCode, Result};
use crate::job::CancelFlag;
use crate::output::Ui;
use client::Repository;
use environment::Settings;

pub use id::ModelId;
pub use preview::Preview;

/// How often the user's interrupt is looked for.
const TICK: Duration = Duration::from_millis(50);
/// How long the transfers may take to notice it before they are left behind.
const GRACE: Duration = Duration::from_secs(2);

/// The Hub as the environment describes it.
#[derive(Debug, Clone)]
pub struct Hub {
    settings: Settings,
    /// Extensions of files that an installed plugin reads, e.g. `gguf`.
    extensions: Vec<String>,
    ui: Arc<Ui>,
    cancel: CancelFlag,
}

impl Hub {
    /// Reads the settings of the Hub's clients from the environment.
    ///
    /// # Errors
    /// If a setting makes no sense.
    pub fn new(extensions: Vec<String>, ui: Arc<Ui>, cancel: CancelFlag) -> Result<Self> {
        Ok(Self {
            settings: Settings::from_env(|name| std::env::var_os(name))?,
            extensions,
            ui,
            cancel,
        })
    }

    /// Downloads what is missing of a model, and returns its folder, or its first
    /// file if it is one that a plugin reads.
    ///
    /// # Errors
    /// If the model cannot be found, read or stored; [`ExitCode::Interrupted`] after
    /// an interrupt, with everything that came kept for the next time.
    pub fn fetch(&self, id: &ModelId) -> Result<PathBuf> {
        let hub = self.clone();
        let id = id.clone();
        self.interruptibly(move || fetch::model(&hub.repository(id)?, &hub.extensions))
    }

    /// Gets the small files and the headers of a model.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub fn preview(&self, id: &ModelId) -> Result<Preview> {
        let hub = self.clone();
        let id = id.clone();
        self.interruptibly(move || {
            let repository = hub.repository(id)?;
            Preview::new(repository, &hub.extensions)
        })
    }

    /// Gets more of a preview's files; `false` if there is no more to get.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub fn read_on(&self, preview: &mut Preview) -> Result<bool> {
        let Some(mut more) = preview.take_unread() else {
            return Ok(false);
        };
        let more = self.interruptibly(move || more.read_on().map(|()| more))?;
        preview.put_back(more);
        Ok(true)
    }

    fn repository(&self, id: ModelId) -> Result<Repository> {
        let settings = self.settings.clone();
        Repository::new(id, settings, Arc::clone(&self.ui), self.cancel.clone())
    }

    /// Runs work on a thread of its own, so that an interrupt ends the wait for a
    /// server that does not answer.
    fn interruptibly<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            // Nobody listens any more after an interrupt.
            let _ = sender.send(work());
        });
        let mut since: Option<Instant> = None;
        loop {
            match receiver.recv_timeout(TICK) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::other("a transfer from the Hub panicked"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.cancel.is_set() && since.get_or_insert_with(Instant::now).elapsed() > GRACE {
                return Err(interrupted());
            }
        }
    }
}

/// The error after the user's interrupt.
fn interrupted() -> Error {
    Error::new(ExitCode::Interrupted, "interrupted while downloading")
        .suggest("run the same command again: it goes on where it stopped")
}
