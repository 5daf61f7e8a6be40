//! What a revision holds: its commit, and its files with length and hash.

use std::collections::BTreeMap;
use std::io::Read;

use serde::Deserialize;

use super::cache::{ModelCache, is_blob_name, is_commit, repo};
use super::client::Repository;
use super::failure::Failure;
use super::id::is_safe_name;
use super::patience::patiently;
use crate::error::{Error, Result};

/// The longest answer that is read: a repository of a hundred thousand files.
const MAX_BYTES: u64 = 64 << 20;

/// The files of a commit.
#[derive(Debug, Default)]
pub struct Listing {
    /// The commit.
    pub commit: String,
    /// What is known about each file, by name.
    pub files: BTreeMap<String, Facts>,
    /// No server can be asked for more: only what the cache holds is there.
    pub cached_only: bool,
}

/// What is known about a file before it is asked for.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Length in bytes.
    pub size: Option<u64>,
    /// The name of its blob.
    pub hash: Option<String>,
}

#[derive(Deserialize)]
struct ModelInfo {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    #[serde(rename = "rfilename")]
    name: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Listing {
    /// Asks the Hub; falls back on the cache where there is no connection.
    ///
    /// # Errors
    /// If the Hub does not know the model or refuses it; without a connection, if the
    /// cache has nothing of it either.
    pub fn get(repository: &Repository, cache: &ModelCache) -> Result<Self> {
        if repository.settings().offline {
            return Self::cached(cache).ok_or_else(|| not_cached(repository, cache));
        }
        match patiently(repository, || ask(repository)) {
            Ok(listing) => Ok(listing),
            Err(Failure::Passing { what, wait }) => match Self::cached(cache) {
                Some(listing) => {
                    let message = format!("{what}; using the copy in the cache");
                    repository.ui().warn(&message);
                    Ok(listing)
                }
                None => Err(unreachable(
                    repository,
                    Failure::Passing { what, wait }.into(),
                )),
            },
            Err(failure) => Err(failure.into()),
        }
    }

    fn cached(cache: &ModelCache) -> Option<Self> {
        let commit = cache.known_commit()?;
        let names = cache.names(&commit).into_iter();
        Some(Self {
            files: names.map(|name| (name, Facts::default())).collect(),
            commit,
            cached_only: true,
        })
    }

    /// The first letters of the commit, for people.
    pub fn short_commit(&self) -> &str {
        self.commit.get(..7).unwrap_or(&self.commit)
    }
}

fn ask(repository: &Repository) -> Result<Listing, Failure> {
    let endpoint = &repository.settings().endpoint;
    let path = repo(repository.id()).api_url();
    let url = format!("{endpoint}/api/{path}?blobs=true");
    let answer = repository.get(&url, None, "the list of files")?;
    let mut bytes = Vec::new();
    let read = answer.body.take(MAX_BYTES).read_to_end(&mut bytes);
    let host = &answer.host;
    read.map_err(|error| Failure::connection(format!("{host} broke off: {error}")))?;
    let listing = parse(&bytes);
    listing.map_err(|what| {
        Error::other(format!(
            "{endpoint} does not answer as the Hub does: {what}"
        ))
        .suggest("check HF_ENDPOINT, and whether a proxy is in between")
        .into()
    })
}

fn parse(bytes: &[u8]) -> Result<Listing, String> {
    let info: ModelInfo = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if !is_commit(&info.sha) {
        return Err(format!("\"{}\" is no commit", info.sha.escape_debug()));
    }
    let siblings = info.siblings.into_iter();
    // What could lead out of the cache's folder does not exist for us.
    let safe = siblings.filter(|sibling| is_safe_name(&sibling.name));
    let files = safe.map(|sibling| {
        let large = sibling.lfs.as_ref();
        let hash = match large {
            Some(large) => large.sha256.clone(),
            None => sibling.blob_id,
        };
        let facts = Facts {
            size: large.and_then(|large| large.size).or(sibling.size),
            hash: hash.filter(|hash| is_blob_name(hash)),
        };
        (sibling.name, facts)
    });
    Ok(Listing {
        commit: info.sha,
        files: files.collect(),
        cached_only: false,
    })
}

fn not_cached(repository: &Repository, cache: &ModelCache) -> Error {
    Error::model_not_found(format!(
        "there is no file or folder {id}, {} holds no copy of {id}, and HF_HUB_OFFLINE forbids to \
         download it",
        cache.root().display(),
        id = repository.id(),
    ))
    .suggest("check the spelling, or run once without HF_HUB_OFFLINE")
}

/// Without a connection nobody can say whether a mistyped path was meant.
fn unreachable(repository: &Repository, error: Error) -> Error {
    let id = repository.id();
    let message = format!(
        "there is no file or folder {id}, and the Hub cannot be asked for it: {}",
        error.message
    );
    Error::other(message).suggest("check the spelling and the connection")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_files_are_read_and_strange_names_left_out() {
        let listing = parse(
            br#"{"sha": "0123456789abcdef0123456789abcdef01234567", "gated": "auto", "siblings": [
                {"rfilename": "config.json", "size": 3, "blobId": "ce013625030ba8dba906f756967f9e9ca394464a"},
                {"rfilename": "m.safetensors", "size": 9, "blobId": "aaaaaaaaaa",
                 "lfs": {"sha256": "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03", "size": 9, "pointerSize": 134}},
                {"rfilename": "../../etc/passwd", "size": 1, "blobId": "aaaaaaaaaa"},
                {"rfilename": "odd", "blobId": "../x"},
                {"rfilename": "bare"}]}"#,
        )
        .unwrap();
        let names: Vec<_> = listing.files.keys().map(String::as_str).collect();
        assert_eq!(names, ["bare", "config.json", "m.safetensors", "odd"]);
        let large = &listing.files["m.safetensors"];
        assert!(large.hash.as_deref().unwrap().starts_with("5891") && large.size == Some(9));
        assert!(
            listing.files["config.json"]
                .hash
                .as_deref()
                .unwrap()
                .starts_with("ce01")
        );
        assert!(listing.files["odd"].hash.is_none() && listing.files["bare"].size.is_none());
        assert_eq!(listing.short_commit(), "0123456");
    }

    #[test]
    fn other_answers_are_refused() {
        for text in ["<html>", "{}", r#"{"sha": "../../x"}"#, r#"{"sha": 5}"#] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
