//! Requests for one repository: the token, redirects, ranges, and what refusals mean.

use std::io::Read;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::{HeaderMap, Response};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::environment::Settings;
use super::failure::Failure;
use super::id::ModelId;
use super::interrupted;
use super::patience::{rate_limit, retry_after};
use super::redirect::{Origin, join};
use super::refusal::Refusal;
use crate::error::{Error, Result};
use crate::job::CancelFlag;
use crate::output::Ui;

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 10;
/// A connection that takes longer will not come.
const CONNECT: Duration = Duration::from_secs(15);
/// A server that says nothing for so long has gone.
const SILENCE: Duration = Duration::from_secs(60);
/// Characters of a path that stay as they are, besides letters and digits.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A model's repository, and the connections to it.
#[derive(Debug)]
pub struct Repository {
    id: ModelId,
    settings: Settings,
    hub: Origin,
    agent: Agent,
    ui: Arc<Ui>,
    cancel: CancelFlag,
    /// Set when one of several transfers failed: the others need not go on.
    stop: AtomicBool,
    answered: AtomicBool,
}

/// An answer with content.
pub struct Answer {
    /// The content, as it comes.
    pub body: Box<dyn Read + Send>,
    /// Where the content begins in the file: 0 unless the server answers with a part.
    pub start: u64,
    /// Length of the whole file, if the server says it.
    pub total: Option<u64>,
    /// Hash of the file: the one of the Hub, not the one of its storage.
    pub etag: Option<String>,
    /// The host that sends it.
    pub host: String,
}

/// What the Hub says about a file before it redirects to where the file is stored.
#[derive(Debug, Default)]
struct Linked {
    etag: Option<String>,
    size: Option<u64>,
}

impl Repository {
    /// Prepares connections; asks nothing yet.
    ///
    /// # Errors
    /// If the endpoint is no address.
    pub fn new(id: ModelId, settings: Settings, ui: Arc<Ui>, cancel: CancelFlag) -> Result<Self> {
        let hub = Origin::of(&settings.endpoint)
            .ok_or_else(|| Error::invalid_arguments("HF_ENDPOINT is no address"))?;
        let tls = TlsConfig::builder().root_certs(roots()).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            // Followed here: the token must not follow to another host, and the Hub's
            // own headers come with the redirect.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(SILENCE))
            .user_agent(concat!(
                "llm-quantize/",
                env!("CARGO_PKG_VERSION"),
                "; rust"
            ))
            .build();
        Ok(Self {
            id,
            settings,
            hub,
            agent: config.new_agent(),
            ui,
            cancel,
            stop: AtomicBool::new(false),
            answered: AtomicBool::new(false),
        })
    }

    /// The model.
    pub fn id(&self) -> &ModelId {
        &self.id
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The user's side of stderr.
    pub fn ui(&self) -> &Arc<Ui> {
        &self.ui
    }

    /// Ends all transfers at their next step.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether any server answered yet, whatever it said.
    pub fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// After the user's interrupt, or the failure of another transfer.
    pub fn check(&self) -> Result<()> {
        match self.cancel.is_set() || self.stop.load(Ordering::Relaxed) {
            true => Err(interrupted()),
            false => Ok(()),
        }
    }

    /// The address of a file at a commit.
    pub fn file_url(&self, commit: &str, name: &str) -> String {
        let (endpoint, repository) = (&self.settings.endpoint, &self.id.repository);
        let name = utf8_percent_encode(name, PATH);
        format!("{endpoint}/{repository}/resolve/{commit}/{name}")
    }

    /// The page of the files of a commit, for people.
    pub fn folder_page(&self, commit: &str) -> String {
        let (endpoint, repository) = (&self.settings.endpoint, &self.id.repository);
        format!("{endpoint}/{repository}/tree/{commit}")
    }

    /// The page of the model, or of its file, at a commit, for people.
    pub fn page(&self, commit: &str) -> String {
        let (endpoint, repository) = (&self.settings.endpoint, &self.id.repository);
        match &self.id.file {
            Some(file) => format!("{endpoint}/{repository}/blob/{commit}/{file}"),
            None => self.folder_page(commit),
        }
    }

    /// Asks for a thing, or some bytes of it; `what` is its name for messages.
    /// A server may answer with the whole although a part was asked for.
    ///
    /// # Errors
    /// If there is no answer, or it is a refusal.
    pub fn get(&self, url: &str, range: Option<Range<u64>>, what: &str) -> Result<Answer, Failure> {
        let mut url = url.to_owned();
        let mut linked = Linked::default();
        for _ in 0..=MAX_REDIRECTS {
            self.check()?;
            let origin = self.origin(&url)?;
            let response = self.ask(&url, &origin, range.as_ref())?;
            let headers = response.headers();
            if origin == self.hub {
                linked.etag = linked.etag.or_else(|| etag(headers, "x-linked-etag"));
                linked.size = linked.size.or_else(|| number(headers, "x-linked-size"));
            }
            let status = response.status();
            if status.is_redirection() {
                let location = text(headers, "location").unwrap_or_default();
                url = join(&url, location).ok_or_else(|| {
                    Error::other(format!("{} redirects to nowhere", origin.host()))
                })?;
                continue;
            }
            return match status.is_success() {
                true => answer(response, &origin, linked, range.as_ref()),
                false => Err(self.refusal(&response, &origin, what)),
            };
        }
        let host = self.hub.host();
        Err(Error::other(format!("{host} redirects without end")).into())
    }

    fn origin(&self, url: &str) -> Result<Origin, Failure> {
        let origin = Origin::of(url).ok_or_else(|| Error::other("an address is not valid"))?;
        if origin.is_plain() && !self.hub.is_plain() {
            return Err(Error::other(format!(
                "{} redirects to {} without encryption",
                self.hub.host(),
                origin.host()
            ))
            .into());
        }
        Ok(origin)
    }

    fn ask(
        &self,
        url: &str,
        origin: &Origin,
        range: Option<&Range<u64>>,
    ) -> Result<Response<Body>, Failure> {
        // Compressed bytes have neither the length nor the hash of the file.
        let mut request = self.agent.get(url).header("accept-encoding", "identity");
        if let (Some(token), true) = (&self.settings.token, *origin == self.hub) {
            request = request.header("authorization", token.header());
        }
        if let Some(range) = range {
            let end = match range.end {
                u64::MAX => String::new(),
                end => end.saturating_sub(1).to_string(),
            };
            request = request.header("range", format!("bytes={}-{end}", range.start));
        }
        let called = request.call();
        let response = called.map_err(|e| Failure::from_transport(origin.host(), &e))?;
        self.answered.store(true, Ordering::Relaxed);
        Ok(response)
    }

    fn refusal(&self, response: &Response<Body>, origin: &Origin, what: &str) -> Failure {
        let headers = response.headers();
        let status = response.status().as_u16();
        // The address of a stored file is signed and soon expires; the Hub gives a new
        // one, and it has checked who asks before it gave the first.
        let stored = *origin != self.hub;
        if stored || matches!(status, 408 | 425 | 429 | 500..=599) {
            let now = SystemTime::now();
            let wait = text(headers, "retry-after")
                .and_then(|value| retry_after(value, now))
                .or_else(|| text(headers, "ratelimit").and_then(rate_limit));
            let what = match status {
                429 => format!("{} gets too many requests (429)", origin.host()),
                _ if stored => format!("{} answers {status}", origin.host()),
                _ => format!("{} is not available (status {status})", origin.host()),
            };
            return Failure::Passing { what, wait };
        }
        let refusal = Refusal {
            id: &self.id,
            endpoint: &self.settings.endpoint,
            host: origin.host(),
            what,
            status,
            code: text(headers, "x-error-code"),
            message: text(headers, "x-error-message"),
            with_token: self.settings.token.is_some(),
        };
        Failure::Lasting(refusal.error())
    }
}

fn answer(
    response: Response<Body>,
    origin: &Origin,
    linked: Linked,
    range: Option<&Range<u64>>,
) -> Result<Answer, Failure> {
    let headers = response.headers();
    let partial = response.status().as_u16() == 206;
    let (start, total) = match partial {
        true => {
            content_range(text(headers, "content-range").unwrap_or_default()).ok_or_else(|| {
                Error::other(format!(
                    "{} does not say which part it sends",
                    origin.host()
                ))
            })?
        }
        false => (0, response.body().content_length()),
    };
    if partial && range.is_none_or(|range| range.start != start) {
        let host = origin.host();
        return Err(
            Error::other(format!("{host} sends another part than it was asked for")).into(),
        );
    }
    let own = etag(headers, "etag");
    Ok(Answer {
        start,
        total: total.or(linked.size),
        etag: linked.etag.or(own),
        host: origin.host().to_owned(),
        body: Box::new(response.into_body().into_reader()),
    })
}

/// `bytes 5-9/10` begins at 5, and there are 10 in all; `*` is unknown.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (part, total) = value.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let (start, _) = part.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name)?.trim().parse().ok()
}

/// An entity tag without quotes and weakness, as it names a blob.
fn etag(headers: &HeaderMap, name: &str) -> Option<String> {
    let tag = text(headers, name)?.trim();
    let tag = tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"');
    (!tag.is_empty()).then(|| tag.to_owned())
}

/// The system's certificates, to which an organisation may have added its own. Minimal
/// containers have none; Mozilla's are built in for them.
fn roots() -> RootCerts {
    if cfg!(any(windows, target_vendor = "apple")) {
        return RootCerts::PlatformVerifier;
    }
    let found = openssl_probe::probe();
    match found.cert_file.is_none() && found.cert_dir.is_empty() {
        true => RootCerts::WebPki,
        false => RootCerts::PlatformVerifier,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_files() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 0-0/*"), Some((0, None)));
        for value in ["", "bytes */10", "items 1-2/3", "bytes 1/2"] {
            assert_eq!(content_range(value), None, "{value}");
        }
    }

    #[test]
    fn entity_tags() {
        let mut headers = HeaderMap::new();
        headers.insert("etag", "W/\"abc\"".parse().unwrap());
        assert_eq!(etag(&headers, "etag").unwrap(), "abc");
        headers.insert("etag", "\"\"".parse().unwrap());
        assert_eq!(etag(&headers, "etag"), None);
    }
}
