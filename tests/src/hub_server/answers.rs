//! What the Hub and its storage answer.

use std::fmt::Write as _;
use std::net::TcpStream;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::http::{Pace, Request, respond};
use super::{COMMIT, Host, Logged, REPOSITORY, Rules, SIGNATURE, Shared, TAG, lock};

/// An answer that is ready to be sent.
#[derive(Default)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    content: Vec<u8>,
    pace: Pace,
}

impl Answer {
    fn new(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn content(mut self, content: Vec<u8>) -> Self {
        self.content = content;
        self
    }
}

/// Answers the one request of a connection.
pub fn answer(stream: &TcpStream, host: Host, shared: &Shared) {
    let Some(request) = Request::read(stream) else {
        return;
    };
    let (answer, path) = match host {
        Host::Hub => (hub(&request, shared), request.path.clone()),
        Host::Storage => storage(&request, shared),
    };
    let place = {
        // Noted before it is sent: a test may look as soon as its program has ended.
        let mut log = lock(&shared.log);
        log.push(Logged {
            host,
            path,
            range: request.range(u64::MAX),
            authorization: request.header("authorization").map(str::to_owned),
            sent: 0,
        });
        log.len() - 1
    };
    let content = &answer.content;
    let headers = &answer.headers;
    let sent = respond(
        stream,
        &request,
        answer.status,
        headers,
        content,
        answer.pace,
    );
    if let (Ok(sent), Some(entry)) = (sent, lock(&shared.log).get_mut(place)) {
        entry.sent = sent;
    }
}

fn hub(request: &Request, shared: &Shared) -> Answer {
    let mut rules = lock(&shared.rules);
    if let Some((status, retry_after)) = rules.busy.pop_front() {
        let answer = Answer::new(status);
        return match retry_after {
            Some(value) => answer.with("retry-after", value),
            None => answer,
        };
    }
    if let Some(refused) = refused(request, &rules) {
        return refused;
    }
    let path = &request.path;
    let api = format!("/api/models/{REPOSITORY}/revision/");
    let files = format!("/{REPOSITORY}/resolve/");
    if let Some(revision) = path.strip_prefix(&api) {
        return match is_known(revision) {
            true => list(shared, &rules, request.query.contains("blobs=true")),
            false => refusal(404, "RevisionNotFound", "Invalid rev id"),
        };
    }
    let tree = format!("/api/models/{REPOSITORY}/tree/");
    if path.strip_prefix(&tree).is_some_and(is_known) {
        return json_answer(&tree_of(shared));
    }
    match path
        .strip_prefix(&files)
        .and_then(|rest| rest.split_once('/'))
    {
        Some((revision, name)) if is_known(revision) => file(request, shared, name),
        Some(_) => refusal(404, "RevisionNotFound", "Invalid rev id"),
        None => Answer::new(404),
    }
}

fn is_known(revision: &str) -> bool {
    ["main", TAG, COMMIT, "refs%2Fpr%2F1"].contains(&revision)
}

fn refused(request: &Request, rules: &Rules) -> Option<Answer> {
    let given = request.header("authorization");
    if !request.path.contains(REPOSITORY) {
        // The Hub does not tell a stranger whether a private model exists.
        let status = if given.is_some() { 404 } else { 401 };
        return Some(refusal(status, "RepoNotFound", "Repository not found"));
    }
    if rules.gated {
        let status = if given.is_some() { 403 } else { 401 };
        let message = "Access to model org/tiny-llama is restricted";
        return Some(refusal(status, "GatedRepo", message));
    }
    let needed = rules.token.as_ref()?;
    if given == Some(&format!("Bearer {needed}")) {
        return None;
    }
    Some(match given {
        Some(_) => Answer::new(401).with(
            "x-error-message",
            "Invalid credentials in Authorization header",
        ),
        None => refusal(401, "RepoNotFound", "Repository not found"),
    })
}

fn refusal(status: u16, code: &str, message: &str) -> Answer {
    Answer::new(status)
        .with("x-error-code", code)
        .with("x-error-message", message)
}

fn list(shared: &Shared, rules: &Rules, blobs: bool) -> Answer {
    let siblings: Vec<Value> = shared
        .files
        .iter()
        .map(|(name, content)| {
            let mut entry = json!({"rfilename": name});
            if !blobs || rules.names_only {
                return entry;
            }
            entry["size"] = content.len().into();
            entry["blobId"] = git_hash(content).into();
            if is_large(name) {
                let size = rules.claimed_size.unwrap_or(content.len() as u64);
                entry["size"] = size.into();
                entry["lfs"] = json!({"sha256": sha256(content), "size": size, "pointerSize": 134});
            }
            entry
        })
        .collect();
    let info = json!({"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "private": false,
        "gated": false, "tags": [], "downloads": 0, "siblings": siblings});
    json_answer(&info)
}

/// The list that Python's client asks for.
fn tree_of(shared: &Shared) -> Value {
    let entries = shared.files.iter().map(|(name, content)| {
        let size = content.len();
        let mut entry =
            json!({"type": "file", "path": name, "oid": git_hash(content), "size": size});
        if is_large(name) {
            entry["lfs"] = json!({"oid": sha256(content), "size": size, "pointerSize": 134});
        }
        entry
    });
    entries.collect()
}

fn json_answer(document: &Value) -> Answer {
    Answer::new(200)
        .with("content-type", "application/json")
        .content(document.to_string().into_bytes())
}

fn file(request: &Request, shared: &Shared, name: &str) -> Answer {
    let Some(content) = shared.files.get(name) else {
        return refusal(404, "EntryNotFound", "Entry not found");
    };
    let hash = etag(name, content);
    let length = content.len() as u64;
    let answer = |status| Answer::new(status).with("x-repo-commit", COMMIT);
    if is_large(name) {
        let storage = &shared.storage_url;
        return answer(302)
            .with("location", format!("{storage}/{hash}?{SIGNATURE}"))
            .with("x-linked-etag", format!("\"{hash}\""))
            .with("x-linked-size", length.to_string());
    }
    match request.range(length) {
        Some(range) => answer(206)
            .with("etag", format!("\"{hash}\""))
            .with(
                "content-range",
                format!("bytes {}-{}/{length}", range.start, range.end - 1),
            )
            .content(content[range.start as usize..range.end as usize].to_vec()),
        None => answer(200)
            .with("etag", format!("\"{hash}\""))
            .content(content.clone()),
    }
}

/// Content by its hash, and the file's name for the log.
fn storage(request: &Request, shared: &Shared) -> (Answer, String) {
    let mut rules = lock(&shared.rules);
    let hash = request.path.trim_start_matches('/');
    let found = shared
        .files
        .iter()
        .find(|(name, content)| is_large(name) && sha256(content) == hash);
    let Some((name, content)) = found.filter(|_| request.query == SIGNATURE) else {
        return (Answer::new(403), request.path.clone());
    };
    let mut content = content[..content.len() - rules.shorter].to_vec();
    if rules.damaged > 0 && request.header("range").is_none() {
        rules.damaged -= 1;
        let middle = content.len() / 2;
        content[middle] ^= 1;
    }
    let length = content.len() as u64;
    let range = request.range(length).filter(|_| !rules.no_ranges);
    let mut answer = match range {
        Some(range) => Answer::new(206)
            .with(
                "content-range",
                format!("bytes {}-{}/{length}", range.start, range.end - 1),
            )
            .content(content[range.start as usize..range.end as usize].to_vec()),
        None => Answer::new(200).content(content),
    };
    // A storage's own, which is not the Hub's.
    answer = answer.with("etag", "\"multipart-7\"");
    answer.pace = Pace {
        cut: rules.cuts.pop_front(),
        bytes_per_second: rules.bytes_per_second,
    };
    (answer, name.clone())
}

fn is_large(name: &str) -> bool {
    [".safetensors", ".gguf", ".bin", ".onnx", "tokenizer.json"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// The name of a file's blob.
pub fn etag(name: &str, content: &[u8]) -> String {
    match is_large(name) {
        true => sha256(content),
        false => git_hash(content),
    }
}

fn sha256(content: &[u8]) -> String {
    hexadecimal(&Sha256::digest(content))
}

fn git_hash(content: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", content.len()));
    hash.update(content);
    hexadecimal(&hash.finalize())
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
