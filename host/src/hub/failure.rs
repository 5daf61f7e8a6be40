//! What can go wrong with a request: for now, or for good.

use std::time::Duration;

use crate::error::Error;

/// A request that failed.
#[derive(Debug)]
pub enum Failure {
    /// It may work in a while.
    Passing {
        /// What happened, and where.
        what: String,
        /// How long the server asks to wait.
        wait: Option<Duration>,
    },
    /// It will not work by trying again.
    Lasting(Error),
}

impl Failure {
    /// A failure of the connection.
    pub fn connection(what: String) -> Self {
        Self::Passing { what, wait: None }
    }

    /// From what ureq says about a request that got no answer.
    pub fn from_transport(host: &str, error: &ureq::Error) -> Self {
        let text = error.to_string();
        let certificate = matches!(error, ureq::Error::Tls(_) | ureq::Error::Rustls(_))
            || text.contains("certificate");
        if certificate {
            return Self::Lasting(
                Error::other(format!("no secure connection to {host}: {text}")).suggest(
                    "check the clock and the certificates of this machine; SSL_CERT_FILE names \
                     further ones",
                ),
            );
        }
        if matches!(error, ureq::Error::InvalidProxyUrl) {
            return Self::Lasting(
                Error::invalid_arguments("the proxy's address is not valid")
                    .suggest("check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"),
            );
        }
        Self::connection(format!("cannot reach {host}: {text}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Lasting(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Lasting(error) => error,
            Failure::Passing { what, .. } => Error::other(what).suggest(
                "try again later: what was downloaded is kept, and a download goes on where it \
                 stopped",
            ),
        }
    }
}
