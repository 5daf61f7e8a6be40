//! A Hub on this machine: answers as the Hugging Face Hub does, from memory, and does
//! wrong what it is told to. It stores large files on a second host, as the Hub does.

mod answers;
mod http;

use std::collections::{BTreeMap, VecDeque};
use std::net::TcpListener;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use http::Request;

/// The commit of every revision.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// The one repository.
pub const REPOSITORY: &str = "org/tiny-llama";
/// A tag.
pub const TAG: &str = "v1";
/// What the addresses of stored files carry; it must not be shown to anybody.
pub const SIGNATURE: &str = "Signature=very-secret";

/// What the server does differently from a Hub that works.
#[derive(Debug, Default)]
pub struct Rules {
    /// The repository is private: this token is needed.
    pub token: Option<String>,
    /// The repository is gated, and nobody was let in.
    pub gated: bool,
    /// Statuses for the next requests to the Hub, with their `Retry-After`.
    pub busy: VecDeque<(u16, Option<String>)>,
    /// The next contents from the storage break off after so many bytes.
    pub cuts: VecDeque<u64>,
    /// The storage sends whole files only.
    pub no_ranges: bool,
    /// The storage's files lack so many bytes at their end.
    pub shorter: usize,
    /// So many of the next whole files from the storage are damaged.
    pub damaged: usize,
    /// The list has names only, as those of some mirrors.
    pub names_only: bool,
    /// The list says that every large file has so many bytes.
    pub claimed_size: Option<u64>,
    /// The storage sends so many bytes in a second.
    pub bytes_per_second: Option<u64>,
}

/// Who was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// The Hub itself.
    Hub,
    /// Where it keeps large files.
    Storage,
}

/// A request that was answered.
#[derive(Debug, Clone)]
pub struct Logged {
    /// Who was asked.
    pub host: Host,
    /// The path without its query; for the storage the name of the file.
    pub path: String,
    /// Bytes that were asked for, if only a part.
    pub range: Option<Range<u64>>,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// Bytes of content that were sent.
    pub sent: u64,
}

/// A running server; it ends with the process.
pub struct HubServer {
    /// Its address, for `HF_ENDPOINT`.
    pub url: String,
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    files: BTreeMap<String, Vec<u8>>,
    storage_url: String,
    rules: Mutex<Rules>,
    log: Mutex<Vec<Logged>>,
}

impl HubServer {
    /// Serves these files as the repository.
    pub fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let (hub, hub_url) = listen();
        let (storage, storage_url) = listen();
        let shared = Arc::new(Shared {
            files,
            storage_url,
            rules: Mutex::default(),
            log: Mutex::default(),
        });
        serve(hub, Host::Hub, &shared);
        serve(storage, Host::Storage, &shared);
        Self {
            url: hub_url,
            shared,
        }
    }

    /// Serves a folder, with the files that a repository often has besides.
    pub fn of_folder(folder: &Path) -> Self {
        Self::start(with_clutter(files_of(folder)))
    }

    /// Changes how it behaves.
    pub fn rules(&self) -> MutexGuard<'_, Rules> {
        lock(&self.shared.rules)
    }

    /// Takes out what was asked since the last call.
    pub fn take_log(&self) -> Vec<Logged> {
        std::mem::take(&mut lock(&self.shared.log))
    }

    /// Length of a file.
    pub fn size(&self, name: &str) -> u64 {
        self.shared.files[name].len() as u64
    }

    /// Name of a file's blob.
    pub fn hash(&self, name: &str) -> String {
        answers::etag(name, &self.shared.files[name])
    }
}

/// The files of a folder, by name.
pub fn files_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = crate::names(folder).into_iter();
    names
        .map(|name| {
            let bytes = std::fs::read(folder.join(&name)).expect("a file");
            (name, bytes)
        })
        .collect()
}

/// Adds what no one needs who quantizes the model.
pub fn with_clutter(mut files: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    for name in [
        ".gitattributes",
        "pytorch_model.bin",
        "onnx/model.onnx",
        "original/params.json",
        "tiny-llama.Q4_0.gguf",
    ] {
        files.insert(name.into(), b"not needed".to_vec());
    }
    files.insert("LICENSE".into(), b"public domain\n".to_vec());
    files
}

fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    (listener, format!("http://{address}"))
}

fn serve(listener: TcpListener, host: Host, shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shared = Arc::clone(&shared);
            // A client that goes away in between is what some tests are about.
            std::thread::spawn(move || answers::answer(&stream, host, &shared));
        }
    });
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
