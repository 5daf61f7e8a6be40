//! Where a redirect leads, and who may be told the token.

use ureq::http::Uri;

/// Scheme, host and port of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// Of an address; `None` if it is none.
    pub fn of(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let default = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        Some(Self {
            host: uri.host()?.to_ascii_lowercase(),
            port: uri.port_u16().unwrap_or(default),
            scheme,
        })
    }

    /// Whether what is sent there can be read on the way.
    pub fn is_plain(&self) -> bool {
        self.scheme == "http"
    }

    /// The host, for messages. Never the whole address: the ones of a redirect hold
    /// signatures that let everybody read the file.
    pub fn host(&self) -> &str {
        &self.host
    }
}

/// The address that a `Location` header means, seen from the address that sent it.
pub fn join(from: &str, location: &str) -> Option<String> {
    let absolute = match location {
        _ if location.starts_with("//") => {
            let (scheme, _) = from.split_once(':')?;
            format!("{scheme}:{location}")
        }
        _ if location.starts_with('/') => {
            let uri: Uri = from.parse().ok()?;
            format!("{}://{}{location}", uri.scheme_str()?, uri.authority()?)
        }
        _ => location.to_owned(),
    };
    Origin::of(&absolute)?;
    Some(absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        let from = "https://hub.co/a/resolve/x?q=1";
        let joined = |location| join(from, location);
        assert_eq!(joined("/b/c?d").unwrap(), "https://hub.co/b/c?d");
        assert_eq!(joined("//cdn.co/x").unwrap(), "https://cdn.co/x");
        assert_eq!(
            joined("https://cdn.co/x?sig=1").unwrap(),
            "https://cdn.co/x?sig=1"
        );
        for location in ["x/y", "", "file:///etc/passwd", "ftp://h/x"] {
            assert_eq!(joined(location), None, "{location}");
        }
    }

    #[test]
    fn every_part_of_an_origin_counts() {
        let hub = Origin::of("https://hub.co/x").unwrap();
        assert_eq!(Origin::of("HTTPS://HUB.co:443/y").unwrap(), hub);
        for other in [
            "http://hub.co",
            "https://hub.co:8443",
            "https://a.hub.co",
            "https://hub.com",
        ] {
            assert_ne!(Origin::of(other).unwrap(), hub, "{other}");
        }
        assert!(!hub.is_plain());
    }
}
